//! A cluster's keys and certificates, as kubeadm makes them.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The certificate authority of one cluster.
pub(super) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its key, in PEM.
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    /// Makes one, `ca.crt` in the folder, and the key that ServiceAccounts' tokens are signed with.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("kubernetes", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key).context("making a certificate authority")?.pem();
        fs::write(folder.join("ca.crt"), &certificate)?;
        secret(&folder.join("ca.key"), &key.serialize_pem())?;
        let accounts = KeyPair::generate()?;
        secret(&folder.join("sa.key"), &accounts.serialize_pem())?;
        fs::write(folder.join("sa.pub"), accounts.public_key_pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), certificate })
    }

    /// Its own certificate.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Who a client is: `user` in `group`.
    pub(super) fn client(&self, user: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, user)
    }

    /// A server of these names and addresses, as `FILE.crt` and `FILE.key` in the folder.
    pub(super) fn server(&self, file: &str, names: Vec<String>) -> Result<()> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = name(file, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.write(file, &self.sign(params, file)?)
    }

    /// Writes `FILE.crt` and `FILE.key` into the folder.
    pub(super) fn write(&self, file: &str, identity: &Identity) -> Result<()> {
        fs::write(self.folder.join(format!("{file}.crt")), &identity.certificate)?;
        secret(&self.folder.join(format!("{file}.key")), &identity.key)
    }

    fn sign(&self, mut params: CertificateParams, what: &str) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("signing the certificate of {what}"))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn name(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common);
    name
}

/// Writes a file that only its owner can read.
pub(super) fn secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}
