//! Taking numbers and byte strings off the front of a file of ours.

use std::io::Read;

/// The bytes still to be parsed.
pub struct Cursor<R>(pub R);

impl<R: Read> Cursor<R> {
    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => "it is cut off".into(),
            _ => e.to_string(),
        })?;
        Ok(bytes)
    }

    /// The next four, little-endian.
    pub fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next one to five, seven bits each, the lowest first.
    pub fn varint(&mut self) -> Result<u32, String> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| "a size out of range".into());
            }
        }
        Err("a size out of range".into())
    }
}

/// Appends what [`Cursor::varint`] reads.
pub fn push_varint(to: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}
