//! Estimates, while a gRPC request arrives, how much memory its decoded messages will take.
//!
//! A protobuf message can grow many times when it is decoded: an empty element of a list takes two bytes on the wire and a
//! hundred in memory. Decoding starts only when a whole message is there, so the estimate comes before the memory is taken.
//! Nearly every list of the API is a field of the request itself; so the fields of the outermost message are counted, and of
//! the few fields that `nested_lists` names, what is in them.

use crate::limits;
use crate::service::server::nested_lists::{NestedList, nested_lists};

/// Memory that a decoded field takes besides its bytes, with the room that a growing list keeps.
const FIELD_BYTES: u64 = 160;
/// A byte that arrived is in the received and in the decoded message.
const COPIES: u64 = 2;
/// Memory that a packed number takes besides its byte, with the room that a growing list keeps.
const PACKED_BYTES: u64 = 8;
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
    /// Bytes that have not arrived of the message within the message, if the scan is in one.
    nested_left: u64,
    /// The cost of the message that is arriving.
    cost: u64,
    /// The fields of the message whose content is looked at.
    lists: &'static [(u64, NestedList)],
}

/// What the next byte belongs to.
#[derive(Debug)]
enum ScanPart {
    /// The header of a message, of which some bytes are here.
    Header(Vec<u8>),
    /// A field's number and type, as far as it is here: the value, and the number of its bits.
    Tag(u64, u32),
    /// A field's length, as far as it is here, and what its content is.
    Length(u64, u32, Option<NestedList>),
    /// A number of unknown length.
    Number,
    /// The rest of a field.
    Content(u64),
    /// The rest of a list of packed numbers.
    Packed(u64),
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
    /// The scan of a request to the method that `path` names.
    pub fn new(path: &str) -> MessageScan {
        MessageScan { lists: nested_lists(path), ..MessageScan::default() }
    }

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
            let of_lists = self.take_part(&mut data);
            let taken = (before - data.len()) as u64;
            let added = COPIES * taken + of_lists;
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

    /// Takes bytes of one part. Returns the memory that their fields and numbers take besides their bytes.
    fn take_part(&mut self, data: &mut &[u8]) -> u64 {
        if let ScanPart::Header(header) = &mut self.part {
            let wanted = HEADER - header.len();
            let (taken, rest) = data.split_at(wanted.min(data.len()));
            header.extend_from_slice(taken);
            *data = rest;
            if let [_, a, b, c, d] = *header.as_slice() {
                self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.nested_left = 0;
                self.part = if self.left > 0 { ScanPart::Tag(0, 0) } else { ScanPart::default() };
            }
            return 0;
        }
        if let ScanPart::Content(left) | ScanPart::Packed(left) = &mut self.part {
            let taken = (*left).min(self.left).min(data.len() as u64);
            *left -= taken;
            let is_done = *left == 0;
            self.pass(taken);
            *data = data.get(usize::try_from(taken).unwrap_or(usize::MAX)..).unwrap_or_default();
            let is_packed = matches!(self.part, ScanPart::Packed(_));
            if is_done {
                self.part = ScanPart::Tag(0, 0);
            }
            return if is_packed { PACKED_BYTES * taken } else { 0 };
        }
        let Some((byte, rest)) = data.split_first() else { return 0 };
        *data = rest;
        self.pass(1);
        FIELD_BYTES * self.take_byte(*byte)
    }

    /// Counts bytes as arrived.
    fn pass(&mut self, bytes: u64) {
        self.left -= bytes;
        self.nested_left = self.nested_left.saturating_sub(bytes);
    }

    /// Why the content of a field is looked at. What is in a message within the message is not.
    fn list(&self, tag: u64) -> Option<NestedList> {
        let is_named = |(number, _): &&(u64, NestedList)| *number == tag >> 3;
        let named = self.lists.iter().find(is_named).filter(|_| self.nested_left == 0);
        named.map(|(_, list)| *list)
    }

    /// Takes a byte of a tag, a length or a number. Returns the number of fields that began.
    fn take_byte(&mut self, byte: u8) -> u64 {
        let ends = byte < 0x80;
        let bits = |value: u64, shift: u32| value | u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        let (next, fields) = match self.part {
            ScanPart::Tag(value, shift) if ends => match bits(value, shift) & 7 {
                0 => (ScanPart::Number, 1),
                1 => (ScanPart::Content(8), 1),
                2 => (ScanPart::Length(0, 0, self.list(bits(value, shift))), 1),
                5 => (ScanPart::Content(4), 1),
                // A group, or no protobuf: decoding refuses it.
                _ => (ScanPart::Tag(0, 0), 1),
            },
            ScanPart::Tag(value, shift) => (ScanPart::Tag(bits(value, shift), shift.saturating_add(7)), 0),
            ScanPart::Length(value, shift, list) if ends => match (bits(value, shift), list) {
                (0, _) => (ScanPart::Tag(0, 0), 0),
                (length, Some(NestedList::Messages)) => {
                    self.nested_left = length.min(self.left);
                    (ScanPart::Tag(0, 0), 0)
                }
                (length, Some(NestedList::Packed)) => (ScanPart::Packed(length), 0),
                (length, None) => (ScanPart::Content(length), 0),
            },
            ScanPart::Length(value, shift, list) => {
                (ScanPart::Length(bits(value, shift), shift.saturating_add(7), list), 0)
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
    fn lists_within_lists_and_packed_numbers_count() {
        let precondition = v1::Precondition { params: vec![String::new(); 1000], ..Default::default() };
        let request = v1::ApplyRequest {
            preconditions: vec![precondition.clone(), precondition],
            ..Default::default()
        };
        let wire = on_the_wire(&request);
        for size in [1, 3, wire.len()] {
            let mut scan = MessageScan::new("/driftdb.v1.WriterService/Apply");
            let added: u64 = wire.chunks(size).map(|chunk| scan.take(chunk).added).sum();
            assert_eq!(added, COPIES * wire.len() as u64 + FIELD_BYTES * 2 * (1 + 1000), "chunks of {size}");
        }
        let request = v1::IngestRequest { set_aside: vec![7; 1000], batch_id: 9, ..Default::default() };
        let wire = on_the_wire(&request);
        for size in [1, 3, wire.len()] {
            let mut scan = MessageScan::new("/driftdb.v1.WriterService/Ingest");
            let added: u64 = wire.chunks(size).map(|chunk| scan.take(chunk).added).sum();
            assert_eq!(
                added,
                COPIES * wire.len() as u64 + FIELD_BYTES * 2 + PACKED_BYTES * 1000,
                "chunks of {size}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_protobuf_do_no_harm() {
        for byte in 0..=255 {
            let mut scan = MessageScan::new("/driftdb.v1.WriterService/Ingest");
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
