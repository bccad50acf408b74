//! The primary volume descriptor (ECMA-119, 8.4).

use super::error::ReadError;
use super::record::{Record, both_16, both_32, flags};
use super::{DESCRIPTOR_OFFSET, DIGEST_AT, DIGEST_MARK, MAX_LABEL, SECTOR, TreeDigest};

/// What a primary volume descriptor begins with: its type, the standard's name, its version (ECMA-119, 8.4).
const PRIMARY: &[u8] = b"\x01CD001\x01";

/// What the primary volume descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The volume label, without the spaces behind it.
    pub label: String,
    /// Bytes of the volume.
    pub size: u64,
    /// The digest of its tree, if it says one.
    pub tree: Option<TreeDigest>,
    /// The root's first sector, and its bytes.
    pub(super) root: (u32, u32),
}

impl Descriptor {
    /// The label of one that may be damaged otherwise; `None`: it is no primary volume descriptor.
    pub fn label_of(sector: &[u8; SECTOR]) -> Option<String> {
        sector
            .starts_with(PRIMARY)
            .then(|| label(&sector[40..40 + MAX_LABEL]))
    }

    /// Reads it from the sector at [`DESCRIPTOR_OFFSET`].
    ///
    /// # Errors
    /// It is none, or damaged.
    pub fn parse(sector: &[u8; SECTOR]) -> Result<Self, ReadError> {
        if !sector.starts_with(PRIMARY) {
            return Err(ReadError::Foreign);
        }
        let damaged = ReadError::Descriptor;
        if both_16(&sector[128..]) != Some(SECTOR as u16) {
            return Err(damaged("its blocks have not 2048 bytes"));
        }
        let sectors = both_32(&sector[80..]).ok_or(damaged("its size is two sizes"))?;
        let size = u64::from(sectors) * SECTOR as u64;
        if size < DESCRIPTOR_OFFSET + SECTOR as u64 {
            return Err(damaged("its volume ends before it"));
        }
        let root = Record::parse(&sector[156..190]).ok_or(damaged("the root has no record"))?;
        if root.flags & flags::DIRECTORY == 0 || !root.plain {
            return Err(damaged("the root is no directory in one piece"));
        }
        Ok(Self {
            label: label(&sector[40..40 + MAX_LABEL]),
            size,
            tree: tree(&sector[DIGEST_AT..]),
            root: (root.sector, root.length),
        })
    }
}

/// A label of whoever's making is shown, and compared with those of classes.
fn label(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches([' ', '\0']);
    text.replace(char::is_control, "\u{fffd}")
}

fn tree(bytes: &[u8]) -> Option<TreeDigest> {
    let digits = bytes.strip_prefix(DIGEST_MARK)?.first_chunk::<64>()?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(TreeDigest(digest))
}
