//! Certificates of a test's own, made with openssl: a CA, and what it signs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

/// A certificate authority whose files lie in a folder.
pub struct Ca {
    folder: PathBuf,
    name: String,
}

/// A certificate and its key.
pub struct Pair {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM, readable by its owner alone.
    pub key: PathBuf,
}

fn openssl(folder: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl {arguments:?}: {said}");
    Ok(())
}

/// Elliptic curves: RSA keys take a second each.
const NEW_KEY: [&str; 7] = [
    "req",
    "-new",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

impl Ca {
    /// A new one, `NAME.crt` in `folder`.
    ///
    /// # Errors
    /// openssl fails.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let (cert, key, subject) = (
            format!("{name}.crt"),
            format!("{name}.key"),
            format!("/CN={name}"),
        );
        let mut arguments = NEW_KEY.to_vec();
        arguments.extend(["-x509", "-days", "2", "-subj", &subject]);
        arguments.extend(["-keyout", &key, "-out", &cert]);
        openssl(folder, &arguments)?;
        Ok(Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Its certificate.
    pub fn cert(&self) -> PathBuf {
        self.folder.join(format!("{}.crt", self.name))
    }

    /// Signs a server's certificate for `alt`, such as `IP:127.0.0.1` or `DNS:broker.example`.
    ///
    /// # Errors
    /// openssl fails.
    pub fn server(&self, file: &str, alt: &str) -> Result<Pair> {
        let usage = format!("subjectAltName={alt}\nextendedKeyUsage=serverAuth\n");
        self.sign(file, "broker", &usage)
    }

    /// Signs a client's certificate for the user `name`.
    ///
    /// # Errors
    /// openssl fails.
    pub fn client(&self, file: &str, name: &str) -> Result<Pair> {
        self.sign(file, name, "extendedKeyUsage=clientAuth\n")
    }

    /// Signs a VM's certificate, by the URI that names it.
    ///
    /// # Errors
    /// openssl fails.
    pub fn vm(&self, file: &str, uri: &str) -> Result<Pair> {
        let extensions = format!("subjectAltName=URI:{uri}\nextendedKeyUsage=clientAuth\n");
        self.sign(file, "vm", &extensions)
    }

    /// Signs one that has ended.
    ///
    /// # Errors
    /// openssl fails.
    pub fn expired(&self, file: &str, name: &str, alt: &str) -> Result<Pair> {
        let pair = self.sign(file, name, &format!("subjectAltName={alt}\n"))?;
        let (ca, at) = (&self.name, |suffix: &str| format!("{file}.{suffix}"));
        let config = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nrand_serial=yes\nnew_certs_dir=.\n\
             certificate={ca}.crt\nprivate_key={ca}.key\ndefault_md=sha256\npolicy=p\n\
             [p]\ncommonName=supplied\n"
        );
        std::fs::write(self.folder.join("ca.conf"), config)?;
        std::fs::write(self.folder.join("index"), "")?;
        let (request, cert, ext) = (at("csr"), at("crt"), at("ext"));
        let mut arguments = vec!["ca", "-batch", "-notext", "-config", "ca.conf"];
        arguments.extend([
            "-startdate",
            "20250101000000Z",
            "-enddate",
            "20250102000000Z",
        ]);
        arguments.extend(["-in", &request, "-out", &cert, "-extfile", &ext]);
        openssl(&self.folder, &arguments)?;
        Ok(pair)
    }

    fn sign(&self, file: &str, subject: &str, extensions: &str) -> Result<Pair> {
        let at = |suffix: &str| format!("{file}.{suffix}");
        std::fs::write(self.folder.join(at("ext")), extensions)?;
        let (key, request, cert) = (at("key"), at("csr"), at("crt"));
        let subject = format!("/CN={subject}");
        let mut arguments = NEW_KEY.to_vec();
        arguments.extend(["-subj", &subject, "-keyout", &key, "-out", &request]);
        openssl(&self.folder, &arguments)?;
        let (ca_cert, ca_key) = (format!("{}.crt", self.name), format!("{}.key", self.name));
        let ext = at("ext");
        let mut arguments = vec!["x509", "-req", "-in", &request, "-out", &cert];
        arguments.extend(["-CA", &ca_cert, "-CAkey", &ca_key, "-CAcreateserial"]);
        arguments.extend(["-extfile", &ext, "-days", "2"]);
        openssl(&self.folder, &arguments)?;
        Ok(Pair {
            cert: self.folder.join(cert),
            key: self.folder.join(key),
        })
    }
}
