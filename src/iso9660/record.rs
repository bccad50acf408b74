//! Directory records, as they lie on the medium (ECMA-119, 9.1).

use super::SECTOR;

/// The bytes of a record before its identifier.
pub const FIXED: usize = 33;

/// The longest record: its length is one byte, and even.
pub const MAX_RECORD: usize = 254;

/// The identifier of a directory's own record.
pub const SELF: &[u8] = &[0];

/// The identifier of its parent's.
pub const PARENT: &[u8] = &[1];

/// File flags (9.1.6).
pub mod flags {
    /// A directory.
    pub const DIRECTORY: u8 = 1 << 1;
    /// An associated file, as of a Macintosh.
    pub const ASSOCIATED: u8 = 1 << 2;
    /// Not the file's last extent.
    pub const MULTI_EXTENT: u8 = 1 << 7;
}

/// 1980-01-01 00:00:00 UTC: no clock has a part in an image.
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];

/// A record, borrowed from the directory.
#[derive(Debug)]
pub struct Record<'a> {
    /// The extent's first sector.
    pub sector: u32,
    /// Its length in bytes.
    pub length: u32,
    /// [`flags`].
    pub flags: u8,
    /// Whether its file is in one piece, on this volume, without an attribute record before it.
    pub plain: bool,
    /// The file identifier.
    pub identifier: &'a [u8],
    /// The system use field.
    pub system_use: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that fills `bytes`; `None` if they are none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let fixed = bytes.get(..FIXED)?;
        if usize::from(fixed[0]) != bytes.len() {
            return None;
        }
        let name = usize::from(fixed[32]);
        let identifier = bytes.get(FIXED..FIXED + name).filter(|id| !id.is_empty())?;
        // A pad byte makes the fields even.
        let system_use = bytes.get((FIXED + name).next_multiple_of(2)..);
        Some(Self {
            sector: both_32(&fixed[2..10])?,
            length: both_32(&fixed[10..18])?,
            flags: fixed[25],
            plain: fixed[1] == 0 && fixed[26..28] == [0, 0] && both_16(&fixed[28..32]) == Some(1),
            identifier,
            system_use: system_use.unwrap_or_default(),
        })
    }
}

/// Writes one. The caller sees to it that it is not longer than [`MAX_RECORD`].
pub fn write(sector: u32, length: u32, flags: u8, identifier: &[u8], system_use: &[u8]) -> Vec<u8> {
    let mut record = vec![0; 2];
    record.extend(to_both_32(sector));
    record.extend(to_both_32(length));
    record.extend(DATE);
    record.extend([flags, 0, 0]);
    record.extend(to_both_16(1));
    record.push(byte(identifier.len()));
    record.extend(identifier);
    record.resize(record.len().next_multiple_of(2), 0);
    record.extend(system_use);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = byte(record.len());
    record
}

/// The bytes of a record with an identifier that long and nothing in its system use.
pub fn bare_length(identifier: usize) -> usize {
    (FIXED + identifier).next_multiple_of(2)
}

/// A length that the writer keeps below 256.
pub fn byte(length: usize) -> u8 {
    u8::try_from(length).expect("records and fields are cut to fit")
}

/// A number in both byte orders (7.3.3); `None` if they disagree.
pub fn both_32(bytes: &[u8]) -> Option<u32> {
    let little = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let big = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    (little == big).then_some(little)
}

/// The same of 16 bits (7.2.3).
pub fn both_16(bytes: &[u8]) -> Option<u16> {
    let little = u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?);
    let big = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    (little == big).then_some(little)
}

/// 32 bits in both byte orders.
pub fn to_both_32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// 16 bits in both byte orders.
pub fn to_both_16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// How many sectors so many bytes take.
pub fn sectors(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR)
}
