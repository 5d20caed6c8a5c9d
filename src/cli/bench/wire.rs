//! WebSocket frames by hand: the server's are read in place, ours are masked.

/// Opcodes that are told apart.
pub(super) const TEXT: u8 = 1;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// A frame of the server at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: u8,
    /// Where the payload begins.
    pub(super) start: usize,
    /// Where the next frame begins.
    pub(super) end: usize,
}

/// Reads a header, once enough of it is there. Servers do not mask.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    let opcode = bytes.first()? & 0x0f;
    let (start, length) = match bytes.get(1)? & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(start);
    Some(Header { opcode, start, end })
}

/// Appends a masked frame to `out`.
pub(super) fn encode(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    out.reserve(payload.len() + 14);
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_length() {
        let read = |bytes: &[u8]| header(bytes).map(|h| (h.opcode, h.start, h.end));
        assert_eq!(read(&[0x81, 5]), Some((TEXT, 2, 7)));
        assert_eq!(read(&[0x88, 0]), Some((CLOSE, 2, 2)));
        assert_eq!(read(&[0x81, 126, 1, 0]), Some((TEXT, 4, 260)));
        assert_eq!(read(&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]), Some((TEXT, 10, 65_546)));
        assert_eq!(read(&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255]), Some((TEXT, 10, usize::MAX)));
        for part in [&[][..], &[0x81], &[0x81, 126, 1], &[0x81, 127, 0, 0, 0, 0, 0, 1, 0]] {
            assert_eq!(read(part), None);
        }
    }

    #[test]
    fn frames_are_masked() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut frame = Vec::new();
            encode(&mut frame, TEXT, &payload, [1, 2, 3, 4]);
            let header = header(&frame).expect("a header");
            let (mask, masked) = frame[header.start..].split_at(4);
            assert_eq!(header.end + 4, frame.len());
            let plain: Vec<u8> = masked.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
            assert_eq!(plain, payload);
        }
    }
}
