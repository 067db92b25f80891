//! Estimates, while a gRPC request arrives, how much memory its decoded messages will take.
//!
//! A protobuf message can grow many times when it is decoded: an empty element of a list takes two bytes on the wire and a
//! hundred in memory. Decoding starts only when a whole message is there, so the estimate comes before the memory is taken.
//! Every list in the API is a field of the request itself; so it is enough to count the fields of the outermost message.

use crate::limits;

/// Memory that a decoded field takes besides its bytes, with the room that a growing list keeps.
const FIELD_BYTES: u64 = 160;
/// A byte that arrived is in the received and in the decoded message.
const COPIES: u64 = 2;
/// Few operations have fewer bytes.
const LEAST_FIELD_BYTES: u64 = 20;
/// The length of the header of a gRPC message: a flag, and the length of the message.
const HEADER: usize = 5;

/// The state of the scan of one request body.
#[derive(Debug, Default)]
pub struct MessageScan {
    part: ScanPart,
    /// Bytes of the message that have not arrived.
    left: u64,
    /// The cost of the message that is arriving.
    cost: u64,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum ScanPart {
    /// The header of a message, of which some bytes are here.
    Header(Vec<u8>),
    /// A field's number and type, as far as it is here: the value, and the number of its bits.
    Tag(u64, u32),
    /// A field's length, as far as it is here.
    Length(u64, u32),
    /// A number of unknown length.
    Number,
    /// The rest of a field.
    Content(u64),
}

impl Default for ScanPart {
    fn default() -> ScanPart {
        ScanPart::Header(Vec::new())
    }
}

/// What arrived bytes cost.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ScanCost {
    /// Bytes of memory that they add.
    pub added: u64,
    /// The part of all costs so far whose messages have arrived whole, since the last call.
    pub completed: u64,
}

impl MessageScan {
    /// Whether a message has begun and is not complete.
    pub fn is_within_message(&self) -> bool {
        !matches!(&self.part, ScanPart::Header(header) if header.is_empty())
    }

    /// About the cost of the bytes that are still missing of the message.
    pub fn cost_ahead(&self) -> u64 {
        let left = self.left.min(limits::REQUEST_BYTES as u64);
        COPIES * left + FIELD_BYTES * (left / LEAST_FIELD_BYTES).min(limits::OPERATIONS_PER_COMMIT as u64)
    }

    /// Takes the next bytes.
    pub fn take(&mut self, mut data: &[u8]) -> ScanCost {
        let mut cost = ScanCost::default();
        while !data.is_empty() {
            let before = data.len();
            let fields = self.take_part(&mut data);
            let taken = (before - data.len()) as u64;
            let added = COPIES * taken + FIELD_BYTES * fields;
            self.cost += added;
            cost.added += added;
            if self.left == 0 && !matches!(self.part, ScanPart::Header(_)) {
                self.part = ScanPart::default();
            }
            if !self.is_within_message() {
                cost.completed += std::mem::take(&mut self.cost);
            }
        }
        cost
    }

    /// Takes bytes of one part. Returns the number of fields that began.
    fn take_part(&mut self, data: &mut &[u8]) -> u64 {
        if let ScanPart::Header(header) = &mut self.part {
            let wanted = HEADER - header.len();
            let (taken, rest) = data.split_at(wanted.min(data.len()));
            header.extend_from_slice(taken);
            *data = rest;
            if let [_, a, b, c, d] = *header.as_slice() {
                self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.part = if self.left > 0 { ScanPart::Tag(0, 0) } else { ScanPart::default() };
            }
            return 0;
        }
        if let ScanPart::Content(left) = &mut self.part {
            let taken = (*left).min(self.left).min(data.len() as u64);
            *left -= taken;
            self.left -= taken;
            let is_done = *left == 0;
            *data = data.get(usize::try_from(taken).unwrap_or(usize::MAX)..).unwrap_or_default();
            if is_done {
                self.part = ScanPart::Tag(0, 0);
            }
            return 0;
        }
        let Some((byte, rest)) = data.split_first() else { return 0 };
        *data = rest;
        self.left -= 1;
        self.take_byte(*byte)
    }

    /// Takes a byte of a tag, a length or a number.
    fn take_byte(&mut self, byte: u8) -> u64 {
        let ends = byte < 0x80;
        let bits = |value: u64, shift: u32| value | u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        let (next, fields) = match self.part {
            ScanPart::Tag(value, shift) if ends => match bits(value, shift) & 7 {
                0 => (ScanPart::Number, 1),
                1 => (ScanPart::Content(8), 1),
                2 => (ScanPart::Length(0, 0), 1),
                5 => (ScanPart::Content(4), 1),
                // A group, or no protobuf: decoding refuses it.
                _ => (ScanPart::Tag(0, 0), 1),
            },
            ScanPart::Tag(value, shift) => (ScanPart::Tag(bits(value, shift), shift.saturating_add(7)), 0),
            ScanPart::Length(value, shift) if ends => match bits(value, shift) {
                0 => (ScanPart::Tag(0, 0), 0),
                length => (ScanPart::Content(length), 0),
            },
            ScanPart::Length(value, shift) => {
                (ScanPart::Length(bits(value, shift), shift.saturating_add(7)), 0)
            }
            ScanPart::Number if !ends => (ScanPart::Number, 0),
            _ => (ScanPart::Tag(0, 0), 0),
        };
        self.part = next;
        fields
    }
}

#[cfg(test)]
mod tests {
    use driftdb::v1;
    use prost::Message;

    use super::*;

    fn on_the_wire(message: &impl Message) -> Vec<u8> {
        let body = message.encode_to_vec();
        let mut wire = vec![0];
        wire.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        wire.extend(body);
        wire
    }

    #[test]
    fn fields_are_counted_wherever_the_bytes_are_cut() {
        let message = v1::SelectRequest {
            table: "t".into(),
            params: vec![String::new(); 300],
            fields: vec!["a".repeat(200), String::new()],
            limit: 1 << 40,
            count_only: true,
            ..Default::default()
        };
        let mut wire = on_the_wire(&message);
        wire.extend([0; HEADER]);
        wire.extend(on_the_wire(&v1::SelectRequest { table: "t".into(), ..Default::default() }));
        let expected = COPIES * wire.len() as u64 + FIELD_BYTES * (1 + 300 + 2 + 1 + 1 + 1);
        for size in [1, 2, 3, 7, 64, wire.len()] {
            let mut scan = MessageScan::default();
            let mut sum = ScanCost::default();
            for chunk in wire.chunks(size) {
                let cost = scan.take(chunk);
                sum.added += cost.added;
                sum.completed += cost.completed;
            }
            assert_eq!(sum, ScanCost { added: expected, completed: expected }, "chunks of {size}");
            assert!(!scan.is_within_message());
        }
    }

    #[test]
    fn bytes_that_are_no_protobuf_do_no_harm() {
        for byte in 0..=255 {
            let mut scan = MessageScan::default();
            let mut wire = vec![0, 0, 0, 0, 100];
            wire.extend([byte; 100]);
            let cost = scan.take(&wire);
            assert_eq!(cost.added, cost.completed, "{byte}");
            assert!(!scan.is_within_message());
            scan.take(&[byte; 3]);
            assert!(scan.is_within_message());
        }
    }
}
