//! Signed tokens of others (JWS, compact form): what they say, and whether the signature is good.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value};

/// A public key that signatures are checked with.
#[derive(Clone)]
pub(crate) struct Key {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Es256,
    Rs256,
    EdDsa,
}

impl Algorithm {
    fn named(name: &str) -> Option<Algorithm> {
        match name {
            "ES256" => Some(Algorithm::Es256),
            "RS256" => Some(Algorithm::Rs256),
            "EdDSA" => Some(Algorithm::EdDsa),
            _ => None,
        }
    }

    fn verifier(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::EdDsa => &ED25519,
        }
    }
}

/// What comes before the bits of a P-256 key in its SubjectPublicKeyInfo, and before those of an Ed25519 key: with fixed
/// lengths the DER has fixed bytes.
pub(crate) const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const ED25519_PREFIX: &[u8] = &[
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// The algorithm identifier of RSA keys; the key follows in a bit string whose length varies.
const RSA_IDENTIFIER: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

impl Key {
    /// A P-256 key from its uncompressed point.
    pub(crate) fn p256(point: &[u8]) -> Key {
        Key {
            algorithm: Algorithm::Es256,
            bytes: point.to_vec(),
        }
    }

    /// A key in PEM (`BEGIN PUBLIC KEY`): P-256, RSA or Ed25519.
    pub(crate) fn from_pem(pem: &str) -> Result<Key, &'static str> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| "not a public key in PEM")?;
        let der: &[u8] = &der;
        let (algorithm, bytes) = if let Some(point) = der.strip_prefix(P256_PREFIX) {
            (Algorithm::Es256, point)
        } else if let Some(key) = der.strip_prefix(ED25519_PREFIX) {
            (Algorithm::EdDsa, key)
        } else {
            let (_, inside) = tagged(der, 0x30).ok_or("not a public key in PEM")?;
            let bits = inside
                .strip_prefix(RSA_IDENTIFIER)
                .ok_or("not a P-256, RSA or Ed25519 key")?;
            let (_, bits) = tagged(bits, 0x03).ok_or("not a public key in PEM")?;
            (
                Algorithm::Rs256,
                bits.strip_prefix(&[0]).ok_or("not a public key in PEM")?,
            )
        };
        Ok(Key {
            algorithm,
            bytes: bytes.to_vec(),
        })
    }
}

/// What is behind a DER element of this tag, and what is inside it.
fn tagged(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match length {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (
            usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?),
            &rest[2..],
        ),
        _ => return None,
    };
    let (inside, behind) = rest.split_at_checked(length)?;
    Some((behind, inside))
}

/// A token that was taken apart. It has no `Debug`: nothing prints one.
pub(crate) struct Jws<'t> {
    algorithm: String,
    signed: &'t str,
    signature: Vec<u8>,
    /// Believe nothing of it before [`verified`](Jws::verified) says so.
    pub(crate) claims: Map<String, Value>,
}

impl<'t> Jws<'t> {
    pub(crate) fn read(token: &'t str) -> Option<Jws<'t>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let part = |text: &str| -> Option<Map<String, Value>> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
        };
        Some(Jws {
            algorithm: part(header)?.get("alg")?.as_str()?.to_owned(),
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
            claims: part(claims)?,
        })
    }

    /// Whether one of the keys signed it, with the algorithm that is that key's own: a token does not choose how it is
    /// checked.
    pub(crate) fn verified(&self, keys: &[Key]) -> bool {
        let algorithm = Algorithm::named(&self.algorithm);
        keys.iter()
            .filter(|key| Some(key.algorithm) == algorithm)
            .any(|key| {
                UnparsedPublicKey::new(key.algorithm.verifier(), &key.bytes)
                    .verify(self.signed.as_bytes(), &self.signature)
                    .is_ok()
            })
    }

    pub(crate) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// One audience or many.
    pub(crate) fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn time(&self, claim: &str) -> Option<Timestamp> {
        let seconds = self.claims.get(claim)?.as_f64()?;
        Timestamp::from_second(seconds as i64).ok()
    }

    /// Why it is not valid now, give or take `leeway` seconds; `None` when it is. `any_time`: one of the three claims must
    /// be there.
    pub(crate) fn untimely(&self, now: Timestamp, leeway: i64, any_time: bool) -> Option<&'static str> {
        let (issued, begins, ends) = (self.time("iat"), self.time("nbf"), self.time("exp"));
        untimely(now, leeway, any_time, (issued, begins, ends))
    }

    /// The same as Vault's JWT login has it: of a token with any time, what it lacks follows from the others. So a token
    /// with an end alone begins only this long before it.
    pub(crate) fn untimely_at_login(&self, now: Timestamp, leeway: i64) -> Option<&'static str> {
        let apart = SignedDuration::from_secs(150);
        let later = |at: Timestamp| at.saturating_add(apart).unwrap_or(Timestamp::MAX);
        let earlier = |at: Timestamp| at.saturating_sub(apart).unwrap_or(Timestamp::MIN);
        let (issued, begins, ends) = (self.time("iat"), self.time("nbf"), self.time("exp"));
        let ends = ends.or_else(|| issued.max(begins).map(later));
        let begins = begins.or(issued).or_else(|| ends.map(earlier));
        untimely(now, leeway, true, (issued, begins, ends))
    }
}

type Times = (Option<Timestamp>, Option<Timestamp>, Option<Timestamp>);

fn untimely(
    now: Timestamp,
    leeway: i64,
    any_time: bool,
    (issued, begins, ends): Times,
) -> Option<&'static str> {
    if any_time && issued.or(begins).or(ends).is_none() {
        return Some("no issued at (iat), not before (nbf), or expiration time (exp) claims in token");
    }
    let seconds_since = |time: Timestamp| time.duration_until(now).as_secs();
    if ends.is_some_and(|ends| seconds_since(ends) >= leeway) {
        return Some("invalid expiration time (exp) claim: token is expired");
    }
    if begins.is_some_and(|begins| seconds_since(begins) < -leeway) {
        return Some("invalid not before (nbf) claim: token not yet valid");
    }
    if issued.is_some_and(|issued| seconds_since(issued) < -leeway) {
        return Some("invalid issued at (iat) claim: token issued in the future");
    }
    None
}

/// The compact form of a token, signed by whoever `sign` is.
pub(crate) fn compact(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    // An RSA key, the token `{"sub":"x"}` that it signed, and the same for Ed25519: made with PyJWT, whose private keys are gone.
    const RSA: &str = include_str!("../tests/keys/rsa.pub.pem");
    const RSA_TOKEN: &str = include_str!("../tests/keys/rsa.jwt");
    const ED25519: &str = include_str!("../tests/keys/ed25519.pub.pem");
    const ED25519_TOKEN: &str = include_str!("../tests/keys/ed25519.jwt");

    #[test]
    fn signatures_of_another_program_are_verified_and_changed_ones_are_not() {
        for (pem, token) in [(RSA, RSA_TOKEN.trim()), (ED25519, ED25519_TOKEN.trim())] {
            let key = Key::from_pem(pem).unwrap();
            let jws = Jws::read(token).unwrap();
            assert_eq!(jws.text("sub"), Some("x"));
            assert!(jws.verified(std::slice::from_ref(&key)));
            assert!(!jws.verified(&[]));
            let (head, rest) = token.split_once('.').unwrap();
            let (_, signature) = rest.split_once('.').unwrap();
            let forged = format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"sub":"y"}"#));
            assert!(!Jws::read(&forged).unwrap().verified(&[key]));
        }
        let wrong = Key::from_pem(ED25519).unwrap();
        assert!(!Jws::read(RSA_TOKEN.trim()).unwrap().verified(&[wrong]));
    }

    #[test]
    fn a_token_without_algorithm_is_never_verified() {
        let key = Key::from_pem(RSA).unwrap();
        for algorithm in ["none", "HS256", ""] {
            let token = compact(&json!({"alg": algorithm}), &json!({"sub": "x"}), |_| Vec::new());
            assert!(!Jws::read(&token).unwrap().verified(std::slice::from_ref(&key)));
        }
    }

    #[test]
    fn what_is_no_token_and_no_key_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "a.b.c",
            "e30.e30.e30",
            "bnVsbA.bnVsbA.",
            "e30.e30.é",
        ] {
            assert!(Jws::read(text).is_none(), "{text}");
        }
        for pem in [
            "",
            "nonsense",
            "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n",
        ] {
            assert!(Key::from_pem(pem).is_err(), "{pem}");
        }
    }

    #[test]
    fn a_token_is_valid_between_its_times() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let token = compact(
            &json!({"alg": "none"}),
            &json!({"iat": 90, "nbf": 100, "exp": 200}),
            |_| Vec::new(),
        );
        let jws = Jws::read(&token).unwrap();
        for (now, leeway, valid) in [
            (99, 0, false),
            (100, 0, true),
            (199, 0, true),
            (200, 0, false),
            (200, 60, true),
            (260, 60, false),
            (40, 60, true),
            (29, 60, false),
        ] {
            assert_eq!(
                jws.untimely(at(now), leeway, true).is_none(),
                valid,
                "{now} {leeway}"
            );
        }
        let token = compact(&json!({"alg": "none"}), &json!({}), |_| Vec::new());
        let timeless = Jws::read(&token).unwrap();
        assert!(timeless.untimely(at(0), 0, true).is_some() && timeless.untimely(at(0), 0, false).is_none());
    }
}
