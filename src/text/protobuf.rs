//! The wire format of Protocol Buffers: the fields of one message, as far as SentencePiece's files use it.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// An integer, truth value or enumeration.
    Integer(u64),
    /// Four bytes: a float.
    Four([u8; 4]),
    /// A text, bytes or another message.
    Bytes(&'a [u8]),
    /// Eight bytes, of which there are none that we need.
    Eight,
}

/// The fields of a message in order, with their numbers; an error where the bytes are none.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), Damaged>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

/// The message is cut off or not one.
#[derive(Debug, thiserror::Error)]
#[error("damaged: not the fields of a protocol buffer")]
pub(super) struct Damaged;

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u64, Value<'a>), Damaged> {
    let tag = integer(rest)?;
    let value = match tag & 7 {
        0 => Value::Integer(integer(rest)?),
        1 => take(rest, 8).map(|_| Value::Eight)?,
        2 => {
            let length = integer(rest)?;
            Value::Bytes(take(rest, usize::try_from(length).map_err(|_| Damaged)?)?)
        }
        5 => Value::Four(take(rest, 4)?.try_into().map_err(|_| Damaged)?),
        _ => return Err(Damaged),
    };
    Ok((tag >> 3, value))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Damaged> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Damaged)?;
    *rest = left;
    Ok(taken)
}

/// Seven bits a byte, the lowest first; the last byte is below 128.
fn integer(rest: &mut &[u8]) -> Result<u64, Damaged> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_damage_is_found() {
        let read = |bytes| fields(bytes).collect::<Result<Vec<_>, _>>();
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f];
        let expected =
            [(1, Value::Integer(150)), (2, Value::Bytes(b"hi")), (3, Value::Four([0, 0, 0x80, 0x3f]))];
        assert_eq!(read(&message).unwrap(), expected);
        for damaged in
            [&message[..2], &message[..6], &message[..11], &[0x0b], &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]]
        {
            assert!(read(damaged).is_err(), "{damaged:?}");
        }
    }
}
