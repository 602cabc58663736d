//! Keys and certificates: PEM files, or what the test mode makes; and what rustls is told of them.

use std::path::PathBuf;
use std::sync::Arc;

use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig, version,
};

use super::TlsError;
use super::verify::{AnyClient, ServerChain};
use crate::config::{ClientAuth, Secret, TlsConf};
use crate::watch::Stamps;

const VERSIONS: &[&tokio_rustls::rustls::SupportedProtocolVersion] =
    &[&version::TLS13, &version::TLS12];

/// The files that a server's TLS is made of.
pub fn stamps(conf: &TlsConf) -> Stamps {
    let paths = [&conf.server_key_path, &conf.server_cert_path, &conf.server_trust_cert_path];
    Stamps::of(paths.into_iter().flatten().cloned())
}

pub fn server(conf: &TlsConf) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(VERSIONS)?;
    if conf.test_mode {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let builder = builder.with_no_client_auth();
        return Ok(Arc::new(builder.with_single_cert(vec![made.cert.der().clone()], key)?));
    }
    let mandatory = conf.need_client_auth == ClientAuth::Require;
    let builder = match conf.need_client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        _ if !conf.auth_client => {
            builder.with_client_cert_verifier(Arc::new(AnyClient::new(&provider, mandatory)))
        }
        _ => {
            let roots = roots("tls.server.trustCertPath", &conf.server_trust_cert_path)?;
            let builder_of = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            let verifier = match mandatory {
                true => builder_of.build(),
                false => builder_of.allow_unauthenticated().build(),
            };
            builder.with_client_cert_verifier(verifier.map_err(|e| Error::General(e.to_string()))?)
        }
    };
    let pair = pair(
        &provider,
        ("tls.server.certPath", &conf.server_cert_path),
        ("tls.server.keyPath", &conf.server_key_path, &conf.server_key_password),
    )?;
    Ok(Arc::new(builder.with_cert_resolver(Arc::new(pair))))
}

pub fn client(conf: &TlsConf) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = match conf.auth_server && !conf.test_mode {
        true => {
            let roots = roots("tls.client.trustCertPath", &conf.client_trust_cert_path)?;
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            Some(verifier.build().map_err(|e| Error::General(e.to_string()))?)
        }
        false => None,
    };
    let verifier = Arc::new(ServerChain::new(&provider, chain));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    if conf.test_mode || conf.client_cert_path.is_none() {
        return Ok(Arc::new(builder.with_no_client_auth()));
    }
    let pair = pair(
        &provider,
        ("tls.client.certPath", &conf.client_cert_path),
        ("tls.client.keyPath", &conf.client_key_path, &conf.client_key_password),
    )?;
    Ok(Arc::new(builder.with_client_cert_resolver(Arc::new(pair))))
}

/// A setting that names a file.
type Named<'a> = (&'static str, &'a Option<PathBuf>);

fn read((key, path): Named<'_>) -> Result<(PathBuf, Vec<u8>), TlsError> {
    let path = path.clone().ok_or(TlsError::NotSet(key))?;
    match std::fs::read(&path) {
        Ok(bytes) => Ok((path, bytes)),
        Err(source) => Err(TlsError::Read { key, path, source }),
    }
}

fn certificates(named: Named<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (path, bytes) = read(named)?;
    let wrong = |why: String| TlsError::Content { key: named.0, path, wanted: "certificates", why };
    match CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>() {
        Ok(list) if list.is_empty() => Err(wrong("there is none in it".into())),
        Ok(list) => Ok(list),
        Err(e) => Err(wrong(e.to_string())),
    }
}

fn roots(key: &'static str, path: &Option<PathBuf>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates((key, path))? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

fn pair(
    provider: &CryptoProvider,
    cert: Named<'_>,
    (key, path, password): (&'static str, &Option<PathBuf>, &Secret),
) -> Result<SingleCertAndKey, TlsError> {
    let chain = certificates(cert)?;
    let (path, bytes) = read((key, path))?;
    let private = private_key(&bytes, password).map_err(|why| TlsError::Content {
        key,
        path,
        wanted: "a private key",
        why,
    })?;
    let pair = CertifiedKey::new(chain, provider.key_provider.load_private_key(private)?);
    match pair.keys_match() {
        Err(e @ Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(e.into()),
        // Certificates of the first version of X.509 cannot be looked into here, and serve.
        _ => Ok(pair.into()),
    }
}

fn private_key(pem: &[u8], password: &Secret) -> Result<PrivateKeyDer<'static>, String> {
    let text = std::str::from_utf8(pem).map_err(|e| e.to_string())?;
    if !text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        return PrivateKeyDer::from_pem_slice(pem).map_err(|e| e.to_string());
    }
    let decrypt = || {
        let (_, sealed) = SecretDocument::from_pem(text)?;
        EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes())?.decrypt(&password.0)
    };
    let opened = decrypt().map_err(|e| format!("it cannot be decrypted with the password: {e}"))?;
    Ok(PrivatePkcs8KeyDer::from(opened.as_bytes().to_vec()).into())
}
