//! What sealing and signing cost a host for each message, and opening and verifying its reader, by the size of the
//! RSA key. One thread.

#![expect(clippy::print_stdout, reason = "prints its own results")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey,
};
use aws_lc_rs::signature::Ed25519KeyPair;
use vmkpi::clock::Timestamp;
use vmkpi::message::{Body, Event, Received, Sample, SampleBody, Values};
use vmkpi::open::{OpeningKey, OpeningKeys};
use vmkpi::position::{Position, RowKey, StreamId};
use vmkpi::seal::SealingKey;
use vmkpi::sign::{Keyring, SigningKey};
use vmkpi::value::{Base64Bytes, Value};

/// How long each figure is measured.
const EACH: Duration = Duration::from_millis(500);
/// Samples of a message: one as soon as it is stored, ten seconds of ten a second, and a message that is full.
const SAMPLES: [u64; 3] = [1, 100, 1600];
/// Sizes of RSA keys.
const SIZES: [(usize, KeySize); 4] = [
    // Refused by vmkpi; for comparison, of the RSA operation alone.
    (2048, KeySize::Rsa2048),
    (3072, KeySize::Rsa3072),
    (4096, KeySize::Rsa4096),
    (8192, KeySize::Rsa8192),
];

/// Prints the table.
///
/// # Errors
/// A key is not made, or does not work.
pub fn run() -> Result<()> {
    let (signer, ring) = signing()?;
    println!(
        "| message | bytes | + signature | encode us | sign us | signatures a second | verify us \
         | verifications a second |\n|{}",
        " --- |".repeat(8)
    );
    for samples in SAMPLES {
        let event = event(samples)?;
        let plain = event.encode();
        let signed = event.encode_signed(&signer);
        let verify = || {
            let received = Received::decode(&signed).map_err(anyhow::Error::from);
            received.map(|r| r.verify(&ring).is_ok())
        };
        anyhow::ensure!(verify()?, "it verifies");
        let encode = micros(|| event.encode());
        let sign = micros(|| event.encode_signed(&signer)) - encode;
        let decode = micros(|| Received::decode(&plain).is_ok());
        let verified = micros(verify) - decode;
        println!(
            "| {samples} samples | {} | {} | {encode:.1} | {sign:.1} | {} | {verified:.1} | {} |",
            plain.len(),
            signed.len() - plain.len(),
            a_second(sign),
            a_second(verified)
        );
    }
    println!(
        "\n| RSA bits | samples | bytes sealed | of the open ones | seal us, host (aws-lc) | seals a second \
         | seal us, guest (rsa) | open us | opens a second |\n|{}",
        " --- |".repeat(9)
    );
    for (bits, size) in &SIZES[1..] {
        let (seal, open) = sealing(*size)?;
        for samples in SAMPLES {
            line(*bits, samples, &seal, &open)?;
        }
    }
    println!("\n| RSA bits | wrap us | wraps a second | unwrap us | unwraps a second |");
    println!("| --- | --- | --- | --- | --- |");
    for (bits, size) in &SIZES {
        operation(*bits, *size)?;
    }
    Ok(())
}

/// The RSA operation alone: a content key of 32 bytes by RSA-OAEP-256, as the host wraps it and its reader unwraps it.
fn operation(bits: usize, size: KeySize) -> Result<()> {
    let no = |_| anyhow!("no key");
    let key = PrivateDecryptingKey::generate(size).map_err(|_| anyhow!("no key"))?;
    let public = OaepPublicEncryptingKey::new(key.public_key()).map_err(no)?;
    let private = OaepPrivateDecryptingKey::new(key).map_err(no)?;
    let mut wrapped = vec![0; public.ciphertext_size()];
    let wrap = |to: &mut [u8]| {
        let done = public.encrypt(&OAEP_SHA256_MGF1SHA256, &[7; 32], to, None);
        done.is_ok()
    };
    anyhow::ensure!(wrap(&mut wrapped), "it is wrapped");
    let mut room = wrapped.clone();
    let wraps = micros(|| wrap(&mut room));
    let mut content = vec![0; private.min_output_size()];
    let unwraps = micros(|| {
        let done = private.decrypt(&OAEP_SHA256_MGF1SHA256, &wrapped, &mut content, None);
        done.is_ok()
    });
    println!(
        "| {bits} | {wraps:.0} | {:.0} | {unwraps:.0} | {:.0} |",
        1e6 / wraps,
        1e6 / unwraps
    );
    Ok(())
}

fn line(bits: usize, samples: u64, seal: &[SealingKey; 2], open: &OpeningKeys) -> Result<()> {
    let event = event(samples)?;
    let sealed = event.clone().seal(&seal[1])?;
    anyhow::ensure!(sealed.open(open)? == event, "it opens");
    let clone = micros(|| event.clone());
    let [rsa, aws] = seal
        .each_ref()
        .map(|seal| micros(|| event.clone().seal(seal).is_ok()) - clone);
    let opens = micros(|| sealed.open(open).is_ok());
    let (before, after) = (event.encode().len(), sealed.encode().len());
    println!(
        "| {bits} | {samples} | {after} | {:.2} | {aws:.0} | {:.0} | {rsa:.0} | {opens:.0} | {:.0} |",
        after as f64 / before as f64,
        1e6 / aws,
        1e6 / opens
    );
    Ok(())
}

/// How many a second; nothing of what is no more than noise.
fn a_second(us: f64) -> String {
    match us > 0.0 {
        true => format!("{:.0}", 1e6 / us),
        false => "-".to_owned(),
    }
}

/// Microseconds of a call: the mean of the fastest of five rounds.
fn micros<T>(mut call: impl FnMut() -> T) -> f64 {
    let mut fastest = f64::MAX;
    for _ in 0..5 {
        let (begin, mut calls) = (Instant::now(), 0_u32);
        while begin.elapsed() < EACH / 5 {
            black_box(call());
            calls += 1;
        }
        fastest = fastest.min(begin.elapsed().as_secs_f64() * 1e6 / f64::from(calls));
    }
    fastest
}

fn event(samples: u64) -> Result<Event> {
    let sample = |seq: u64| Sample {
        seq,
        key: RowKey(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        time: Timestamp::from_micros(1_795_194_000_000_000 + i64::try_from(seq).unwrap_or(0)),
        body: SampleBody::Values(Values {
            columns: ["current_users".into(), "load".into()].into(),
            row: vec![Value::Integer(42), Value::Real(0.5)],
        }),
    };
    Ok(Event {
        site: "acme".parse()?,
        vm: "shop-frontend-1".parse()?,
        point: "unencrypted/web".parse()?,
        specifier: "web-load".parse()?,
        revision: "a1b2c3d4e5f60718".into(),
        stream: StreamId(0x0f3c_1234_5678_9abc),
        after: Position::new(0, RowKey(0)),
        through: Position::new(samples, RowKey(7)),
        base: Position::START,
        time: Timestamp::from_micros(1_795_194_000_000_001),
        clock_skew_ms: Some(-12),
        body: Body::Raw((1..=samples).map(sample).collect()),
    })
}

/// PEM, without the lines that a person would like.
pub fn pem(label: &str, der: &[u8]) -> Result<String> {
    let text = serde_json::to_value(Base64Bytes(der.to_vec()))?;
    let text = text.as_str().context("base64 is text")?;
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(std::str::from_utf8)
        .collect::<Result<_, _>>()?;
    let lines = lines.join("\n");
    Ok(format!(
        "-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"
    ))
}

fn signing() -> Result<(SigningKey, Keyring)> {
    let pair = Ed25519KeyPair::generate().map_err(|_| anyhow!("no key"))?;
    let der = pair.to_pkcs8v1().map_err(|_| anyhow!("no key"))?;
    let key = SigningKey::from_pem(&pem("PRIVATE KEY", der.as_ref())?)?;
    let ring = Keyring::from_iter([key.public().clone()]);
    Ok((key, ring))
}

fn sealing(size: KeySize) -> Result<([SealingKey; 2], OpeningKeys)> {
    let key = PrivateDecryptingKey::generate(size).map_err(|_| anyhow!("no key"))?;
    let private: Pkcs8V1Der<'_> = key.as_der().map_err(|_| anyhow!("no key"))?;
    let public: Result<PublicKeyX509Der<'_>, _> = key.public_key().as_der();
    let public = public.map_err(|_| anyhow!("no key"))?;
    let public = pem("PUBLIC KEY", public.as_ref())?;
    let seal = [
        SealingKey::from_pem(&public)?,
        SealingKey::fast_from_pem(&public)?,
    ];
    let open = OpeningKey::from_pem(&pem("PRIVATE KEY", private.as_ref())?)?;
    Ok((seal, OpeningKeys::from_iter([open])))
}
