//! The server's keys and certificates, in files apart from the database.
//!
//! `ca.crt`, `ca.key`: the certificate authority, made at the first start, valid for ten years. `server.pem`: the
//! server's own certificate with its key, made anew when its names change or less than 30 days of it are left. `token.key`: signs tokens.

mod x509;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::auth::TokenKey;
use crate::clock;
use crate::error::Error;

const AUTHORITY_YEARS: i64 = 10;
const SERVER_DAYS: i64 = 397;
/// A server certificate is renewed when less is left of it.
const RENEW_DAYS: i64 = 30;
const AUTHORITY_NAME: &str = "daisy API server authority";

// rcgen does not export the type of its times, so no function can name it as its result.
/// Midnight, so many days from now.
macro_rules! midnight {
    ($now:expr, $days:expr) => {{
        let date = ($now + ($days) * 24.hours()).to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    }};
}
/// Everything secret of a server.
pub(crate) struct Keys {
    pub(crate) authority: String,
    pub(crate) tokens: TokenKey,
    pub(crate) tls: Arc<rustls::ServerConfig>,
}

impl Keys {
    /// Reads the keys in `folder`, or makes them; `names` are the names and addresses that clients use.
    pub(crate) fn open(folder: &Path, names: &[String], now: Timestamp) -> Result<Self, Error> {
        make_folder(folder)?;
        let authority = authority(folder, now)?;
        let (chain, key) = server(folder, names, &authority, now)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { authority: authority.certificate, tokens: TokenKey::new(&token_key(folder)?), tls: Arc::new(tls) })
    }
}

struct Authority {
    certificate: String,
    key: KeyPair,
}

fn authority(folder: &Path, now: Timestamp) -> Result<Authority, Error> {
    let (certificate_file, key_file) = (folder.join("ca.crt"), folder.join("ca.key"));
    if let Some(certificate) = read(&certificate_file)? {
        let key = read(&key_file)?.ok_or_else(|| bad_key(&key_file, "the file is missing"))?;
        let key = KeyPair::from_pem(&key).map_err(|error| bad_key(&key_file, error))?;
        let parsed = parse(&certificate).ok_or_else(|| bad_key(&certificate_file, "not a certificate"))?;
        if now < parsed.from || parsed.until <= now {
            return Err(Error::Clock {
                path: certificate_file.display().to_string(),
                now: clock::rfc3339(now),
                from: clock::rfc3339(parsed.from),
                until: clock::rfc3339(parsed.until),
            });
        }
        return Ok(Authority { certificate, key });
    }
    let refused = |source| Error::Certificate { names: AUTHORITY_NAME.to_owned(), source };
    let key = KeyPair::generate().map_err(refused)?;
    let certificate = authority_params(now).self_signed(&key).map_err(refused)?.pem();
    // The key first: a certificate without its key would be an error at the next start.
    write_secret(&key_file, key.serialize_pem().as_bytes())?;
    write_secret(&certificate_file, certificate.as_bytes())?;
    Ok(Authority { certificate, key })
}

fn authority_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    // A day of slack for clients whose clock is behind.
    params.not_before = midnight!(now, -1);
    params.not_after = midnight!(now, AUTHORITY_YEARS * 365);
    params
}

fn server(
    folder: &Path,
    names: &[String],
    authority: &Authority,
    now: Timestamp,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    // One file: a certificate and a key that do not belong together would be an error at each start.
    let file = folder.join("server.pem");
    let wanted: BTreeSet<String> =
        names.iter().map(|name| name.parse::<IpAddr>().map_or_else(|_| name.clone(), |address| address.to_string())).collect();
    if let Some(stored) = read(&file)?
        && let Some(parsed) = parse(&stored)
        && parsed.names == wanted
        && parsed.from <= now
        && now.as_second() + RENEW_DAYS * 86_400 < parsed.until.as_second()
        && let Some(pair) = pair(&stored)
        && is_issued_by(&pair.0[0], authority)
    {
        return Ok(pair);
    }
    let refused = |source| Error::Certificate { names: names.join(", "), source };
    let key = KeyPair::generate().map_err(refused)?;
    let mut params = CertificateParams::new(wanted.into_iter().collect::<Vec<_>>()).map_err(refused)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "daisy API server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = midnight!(now, -1);
    params.not_after = midnight!(now, SERVER_DAYS);
    let issuer = Issuer::new(authority_params(now), &authority.key);
    let certificate = params.signed_by(&key, &issuer).map_err(refused)?.pem();
    let both = certificate + &key.serialize_pem();
    write_secret(&file, both.as_bytes())?;
    pair(&both).ok_or_else(|| bad_key(&file, "not a certificate and its key"))
}

/// Whether the authority's key identifier stands in the certificate: it does not once the authority was made anew.
fn is_issued_by(certificate: &CertificateDer<'_>, authority: &Authority) -> bool {
    let identifier = authority_params(Timestamp::UNIX_EPOCH).key_identifier(&authority.key);
    certificate.windows(identifier.len()).any(|window| window == identifier)
}

fn pair(pem: &str) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    Some((vec![certificate], PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?))
}

fn parse(pem: &str) -> Option<x509::Certificate> {
    x509::read(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
}

fn token_key(folder: &Path) -> Result<[u8; TokenKey::LENGTH], Error> {
    let file = folder.join("token.key");
    match fs::read(&file) {
        Ok(bytes) => bytes.try_into().map_err(|_| bad_key(&file, "not 32 bytes")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; TokenKey::LENGTH];
            SystemRandom::new().fill(&mut key).map_err(|_| bad_key(&file, "the system gives no random bytes"))?;
            write_secret(&file, &key)?;
            Ok(key)
        }
        Err(source) => Err(file_error(&file, source)),
    }
}

fn bad_key(file: &Path, what: impl ToString) -> Error {
    Error::Key { path: file.display().to_string(), what: what.to_string() }
}

fn file_error(file: &Path, source: io::Error) -> Error {
    Error::File { path: file.display().to_string(), source }
}

fn read(file: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file_error(file, source)),
    }
}

/// Makes a folder that only its owner can enter.
pub(crate) fn make_folder(folder: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| file_error(folder, source))
}

/// Writes a file that only its owner can read; it is there whole, also after a crash, or not at all.
pub(crate) fn write_secret(file: &Path, contents: &[u8]) -> Result<(), Error> {
    let mut temporary = PathBuf::from(file);
    temporary.set_extension("new");
    let write = || {
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        out.set_permissions(fs::Permissions::from_mode(0o600))?;
        out.write_all(contents)?;
        out.sync_all()?;
        fs::rename(&temporary, file)?;
        file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|source| file_error(file, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().expect("a time")
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn files(folder: &Path) -> Vec<Vec<u8>> {
        ["ca.crt", "server.pem", "token.key"].map(|file| fs::read(folder.join(file)).expect("a file")).into()
    }

    fn later(days: i64) -> Timestamp {
        now() + (days * 24).hours()
    }

    #[test]
    fn keys_stay_and_the_server_certificate_is_renewed() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("keys");
        Keys::open(&folder, &names(&["localhost", "127.0.0.1"]), now()).expect("made");
        let first = files(&folder);
        Keys::open(&folder, &names(&["127.0.0.1", "localhost"]), later(1)).expect("read");
        assert_eq!(files(&folder), first, "nothing changes");
        Keys::open(&folder, &names(&["127.0.0.1", "::1"]), later(1)).expect("other names");
        let second = files(&folder);
        assert!(second[0] == first[0] && second[1] != first[1] && second[2] == first[2]);
        Keys::open(&folder, &names(&["127.0.0.1", "::1"]), later(1 + SERVER_DAYS - RENEW_DAYS)).expect("old");
        assert_ne!(files(&folder)[1], second[1]);
        for file in fs::read_dir(&folder).expect("a folder") {
            let mode = file.expect("a file").metadata().expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_wrong_clock_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        Keys::open(folder.path(), &names(&["a"]), now()).expect("made");
        for wrong in [later(-400), later(4000)] {
            let Err(error) = Keys::open(folder.path(), &names(&["a"]), wrong) else { panic!("a wrong clock") };
            assert!(matches!(error, Error::Clock { .. }) && error.to_string().contains("set the clock right"), "{error}");
        }
    }

    #[test]
    fn a_damaged_key_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        Keys::open(folder.path(), &names(&["a"]), now()).expect("made");
        fs::write(folder.path().join("token.key"), b"short").expect("written");
        let Err(error) = Keys::open(folder.path(), &names(&["a"]), now()) else { panic!("a short key") };
        assert!(error.to_string().contains("token.key"), "{error}");
    }
}
