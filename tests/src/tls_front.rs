//! TLS before a store that speaks none: real Vaults are polled over TLS.
use anyhow::Result;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A front that runs until the runtime ends.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens: `https://localhost:<port>`.
    pub url: String,
    /// The certificate to trust, PEM.
    pub ca: String,
}

impl TlsFront {
    /// Listens on any free port of loopback, with a certificate of its own, and passes everything on to `behind`.
    ///
    /// # Errors
    /// If no certificate can be made or no port be had.
    pub async fn start(behind: SocketAddr) -> Result<TlsFront> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://localhost:{}", listener.local_addr()?.port());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A connection that breaks is the client's to notice.
                    let _ = pass(acceptor, stream, behind).await;
                });
            }
        });
        Ok(TlsFront {
            url,
            ca: made.cert.pem(),
        })
    }
}

async fn pass(acceptor: TlsAcceptor, stream: TcpStream, behind: SocketAddr) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut outside = acceptor.accept(stream).await?;
    let mut inside = TcpStream::connect(behind).await?;
    inside.set_nodelay(true)?;
    copy_bidirectional(&mut outside, &mut inside).await?;
    Ok(())
}
