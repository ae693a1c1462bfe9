//! Protobuf's wire format, as far as SentencePiece models need it.

/// The value of one protobuf field; 64-bit ones of a fixed width are skipped over, nobody needs them.
pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// What is left of a protobuf message.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field and its number; `None` at the end.
    pub fn next(&mut self) -> std::result::Result<Option<(u64, Value<'a>)>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let b = self.take(4)?;
                Value::Fixed32(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            }
            _ => return Err("unknown wire type"),
        };
        match key >> 3 {
            0 => Err("field number 0"),
            number => Ok(Some((number, value))),
        }
    }

    fn varint(&mut self) -> std::result::Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("a number that is cut off")?;
            self.0 = rest;
            // The tenth byte has room for one bit only.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits")
    }

    fn take(&mut self, length: u64) -> std::result::Result<&'a [u8], &'static str> {
        let split = usize::try_from(length).ok().and_then(|n| self.0.split_at_checked(n));
        let (taken, rest) = split.ok_or("a field that is cut off")?;
        self.0 = rest;
        Ok(taken)
    }
}
