//! A site's CA and its certificates, as texts in PEM. Clients' certificates name a role and no host: they are seen at
//! brokers of other sites.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use vmkpi::clock::Timestamp;
use vmkpi::name::Label;
use vmkpi::tls::VmName;

use super::super::folder::{CA, NewFile};

/// How long the CA's certificate is valid, in days.
const CA_DAYS: u32 = 3650;
/// So long before now a certificate begins, as clocks differ, in seconds.
const SKEW_SECONDS: i64 = 3600;
/// The longest name in a certificate (RFC 5280, ub-common-name).
const MAX_NAME_BYTES: usize = 64;

/// What other files of a folder of keys are called.
const TAKEN: [&str; 3] = ["ca", "seal", "sign"];

/// A client's name: it becomes a file's name and the user name at a broker.
pub fn client_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.starts_with('.');
    match fits && text.chars().all(plain) && !TAKEN.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 - _ . are expected, and none of {TAKEN:?}"
        )),
    }
}

/// A VM's name, as in its descriptor; it becomes a file's name.
pub fn vm_name(text: &str) -> Result<Label, String> {
    client_name(text)?.parse().map_err(|e| format!("{e}"))
}

/// A server's name: what stands in the URL of the broker.
pub fn server_name(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    client_name(text).map_err(|e| format!("an IP address or a DNS name: {e}"))
}

/// A CA that can make certificates.
pub(super) struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    /// A new one, with its files.
    pub fn new(site: &Label) -> anyhow::Result<(Self, Vec<NewFile>)> {
        let authority = Self {
            params: authority_params(site)?,
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        };
        let cert = authority.params.self_signed(&authority.key)?;
        let [cert_name, key_name] = CA;
        let files = vec![
            NewFile::public(
                cert_name,
                cert.pem(),
                "is trusted: --broker.ca-file of every program, cafile of the broker",
            ),
            NewFile::secret(
                key_name,
                authority.key.serialize_pem(),
                "SECRET: makes further certificates (vmkpi key new tls); keep it off the hosts and the broker",
            ),
        ];
        Ok((authority, files))
    }

    /// The one of an earlier call.
    pub fn again(site: &Label, cert: &str, key: &str) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(key).context("ca.key.pem holds no private key")?;
        let (_, der) = spki::der::pem::decode_vec(cert.trim().as_bytes())
            .map_err(|error| anyhow::anyhow!("ca.cert.pem holds no certificate: {error}"))?;
        let has = |part: &[u8]| der.windows(part.len()).any(|found| found == part);
        if !has(&key.subject_public_key_info()) {
            bail!("ca.key.pem is not the key of ca.cert.pem");
        }
        let name = authority_name(site);
        // A UTF8String of this length (X.690, section 8.23).
        let length = u8::try_from(name.len()).context("the site's name is too long")?;
        if !has(&[&[0x0c, length], name.as_bytes()].concat()) {
            bail!("ca.cert.pem is the CA of another site than {site}");
        }
        let params = authority_params(site)?;
        Ok(Self { params, key })
    }

    /// A broker's key and certificate.
    pub fn server(&self, name: &str, days: u32) -> anyhow::Result<Vec<NewFile>> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let roles = [
            "of the broker (its certfile)",
            "of the broker (its keyfile)",
        ];
        self.files(name, params, days, roles.map(ToOwned::to_owned))
    }

    /// A client's key and certificate.
    pub fn client(&self, name: &str, days: u32) -> anyhow::Result<Vec<NewFile>> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let role = |option: &str| format!("of {name} (--broker.{option}-file)");
        self.files(name, params, days, ["cert", "key"].map(role))
    }

    /// A VM's key and certificate, which its guest shows to hosts.
    pub fn vm(&self, site: &Label, vm: &Label, days: u32) -> anyhow::Result<Vec<NewFile>> {
        let name = VmName {
            site: site.clone(),
            vm: vm.clone(),
        };
        let mut params = CertificateParams::default();
        let uri = name.to_string().try_into()?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let role = |option: &str| format!("of VM {vm} (link_tls.{option}_file in its image)");
        self.files(vm.as_str(), params, days, ["cert", "key"].map(role))
    }

    /// The key and certificate of a host's endpoint, by the name that is in links' URLs.
    pub fn endpoint(&self, name: &str, days: u32) -> anyhow::Result<Vec<NewFile>> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let role = |option: &str| {
            format!("of links' endpoint {name} (--link.tls.{option}-file of vmkpi-host)")
        };
        self.files(name, params, days, ["cert", "key"].map(role))
    }

    fn files(
        &self,
        name: &str,
        mut params: CertificateParams,
        days: u32,
        [of_cert, of_key]: [String; 2],
    ) -> anyhow::Result<Vec<NewFile>> {
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, days)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let cert: Certificate = params.signed_by(&key, &issuer)?;
        let file = name.replace(':', "-");
        Ok(vec![
            NewFile::public(
                &format!("{file}.cert.pem"),
                cert.pem(),
                &format!("certificate {of_cert}"),
            ),
            NewFile::secret(
                &format!("{file}.key.pem"),
                key.serialize_pem(),
                &format!("SECRET: private key {of_key}"),
            ),
        ])
    }
}

fn authority_name(site: &Label) -> String {
    let mut name = format!("vmkpi CA of {site}");
    while name.len() > MAX_NAME_BYTES {
        name.pop();
    }
    name
}

fn authority_params(site: &Label) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let name = authority_name(site);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_DAYS)?;
    Ok(params)
}

fn valid_for(params: &mut CertificateParams, days: u32) -> anyhow::Result<()> {
    let now = Timestamp::now().as_micros().div_euclid(1_000_000);
    let at = |seconds: i64| {
        time::OffsetDateTime::from_unix_timestamp(seconds).context("the clock is out of range")
    };
    params.not_before = at(now - SKEW_SECONDS)?;
    params.not_after = at(now + i64::from(days) * 86_400)?;
    Ok(())
}
