//! A certificate and its key, read again when the files change.
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use tokio_rustls::TlsAcceptor;

/// What cannot be served over TLS, and why.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate chain cannot be used.
    #[error("cannot read the TLS certificate {}: {why}; expected PEM with at least one CERTIFICATE", .file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key cannot be used. Nothing of it is ever shown.
    #[error("cannot read the TLS key {}: {why}; expected PEM with one PRIVATE KEY", .file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Both can be read and do not fit.
    #[error("the TLS key {} does not belong to the certificate {}: {why}", .key_file.display(), .cert_file.display())]
    Mismatch {
        /// The certificate's file.
        cert_file: PathBuf,
        /// The key's file.
        key_file: PathBuf,
        /// What does not fit.
        why: String,
    },
}

/// TLS for a listener. Clones share the certificate.
#[derive(Clone)]
pub struct Tls {
    files: Arc<Files>,
    acceptor: TlsAcceptor,
}

struct Files {
    cert_file: PathBuf,
    key_file: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
    /// What the files looked like when they were last read, whether that worked or not.
    seen: Mutex<Look>,
}

/// Enough of both files' metadata to see a rewrite, a rename over them and a moved symlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look([Option<(u64, u64, i64, i64)>; 2]);

impl Tls {
    /// Reads both files; TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    pub fn load(cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Result<Tls, TlsError> {
        let (cert_file, key_file) = (cert_file.into(), key_file.into());
        let seen = look(&cert_file, &key_file);
        let current = read(&cert_file, &key_file)?;
        let files = Arc::new(Files {
            cert_file,
            key_file,
            current: RwLock::new(Arc::new(current)),
            seen: Mutex::new(seen),
        });
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions")
            .with_no_client_auth()
            .with_cert_resolver(files.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Tls {
            files,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Whether the certificate in use is valid for this name or address.
    pub fn names(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else {
            return false;
        };
        let current = self.files.current();
        let Some(leaf) = current.cert.first() else {
            return false;
        };
        webpki::EndEntityCert::try_from(leaf)
            .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    }

    /// The acceptor for the next handshake, with the files as they are now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.files.refresh();
        self.acceptor.clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("cert_file", &self.files.cert_file)
            .finish_non_exhaustive()
    }
}

impl Files {
    fn current(&self) -> Arc<CertifiedKey> {
        // The value is replaced whole, so a poisoned lock still holds a good one.
        self.current.read().unwrap_or_else(|p| p.into_inner()).clone()
    }

    /// Two `stat` calls per handshake, which costs a thousand times more. The files are read only when they
    /// changed, and a pair that cannot be used is complained of once and leaves the old one in use.
    fn refresh(&self) {
        let now = look(&self.cert_file, &self.key_file);
        {
            let mut seen = self.seen.lock().unwrap_or_else(|p| p.into_inner());
            if *seen == now {
                return;
            }
            *seen = now;
        }
        match read(&self.cert_file, &self.key_file) {
            Ok(new) => {
                *self.current.write().unwrap_or_else(|p| p.into_inner()) = Arc::new(new);
                tracing::info!(cert_file = %self.cert_file.display(), "the TLS certificate changed and was read again");
            }
            Err(error) => {
                tracing::error!(%error, "the TLS files changed and cannot be used: the certificate read before stays in use");
            }
        }
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

fn look(cert_file: &Path, key_file: &Path) -> Look {
    let one = |file: &Path| {
        let meta = std::fs::metadata(file).ok()?;
        Some((
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec() ^ meta.ctime_nsec(),
        ))
    };
    Look([one(cert_file), one(key_file)])
}

fn read(cert_file: &Path, key_file: &Path) -> Result<CertifiedKey, TlsError> {
    let bad_cert = |why: String| TlsError::Certificate {
        file: cert_file.into(),
        why,
    };
    let chain = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad_cert(e.to_string()))?;
    if chain.is_empty() {
        return Err(bad_cert("it holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| TlsError::Key {
        file: key_file.into(),
        why: e.to_string(),
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|e| TlsError::Mismatch {
        cert_file: cert_file.into(),
        key_file: key_file.into(),
        why: e.to_string(),
    })
}
