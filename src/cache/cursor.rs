//! Taking numbers and byte strings off the front of a file of ours.

/// The bytes still to be parsed.
pub struct Cursor<'a>(pub &'a [u8]);

impl Cursor<'_> {
    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.0.split_first_chunk().ok_or("it is cut off")?;
        self.0 = rest;
        Ok(*head)
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
