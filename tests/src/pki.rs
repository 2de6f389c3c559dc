//! Certificates, right and wrong.
use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;

/// Which certificate a server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// One that is valid for its name and signed by the authority that clients trust.
    Right,
    /// One for another name.
    WrongName,
    /// One that ended years ago.
    Expired,
    /// One that an authority signed which nobody trusts.
    UnknownAuthority,
}

/// An authority that clients trust, and what servers may show.
#[derive(Debug)]
pub struct Pki {
    /// The authority's certificate, PEM.
    pub ca: String,
    right: Arc<ServerConfig>,
    wrong_name: Arc<ServerConfig>,
    expired: Arc<ServerConfig>,
    unknown: Arc<ServerConfig>,
}

impl Pki {
    /// Certificates for these names.
    ///
    /// # Errors
    /// If one of them cannot stand in a certificate.
    pub fn new(names: &[&str]) -> Result<Pki> {
        let trusted = authority("the authority of a test")?;
        let stranger = authority("an authority that nobody knows")?;
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Ok(Pki {
            right: server(&trusted, names.clone(), false)?,
            wrong_name: server(&trusted, vec!["elsewhere.example".to_owned()], false)?,
            expired: server(&trusted, names.clone(), true)?,
            unknown: server(&stranger, names, false)?,
            ca: trusted.pem(),
        })
    }

    /// What a server that shows this is made of.
    pub fn shows(&self, shown: Shown) -> Arc<ServerConfig> {
        match shown {
            Shown::Right => self.right.clone(),
            Shown::WrongName => self.wrong_name.clone(),
            Shown::Expired => self.expired.clone(),
            Shown::UnknownAuthority => self.unknown.clone(),
        }
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?)
}

fn server(
    by: &CertifiedIssuer<'static, KeyPair>,
    names: Vec<String>,
    expired: bool,
) -> Result<Arc<ServerConfig>> {
    let mut leaf = CertificateParams::new(names)?;
    if expired {
        leaf.not_before = date_time_ymd(2001, 1, 1);
        leaf.not_after = date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, by)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
