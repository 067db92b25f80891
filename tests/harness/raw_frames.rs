//! HTTP/2 frames as a test writes them, for clients that break the rules or stay just within them.

use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A client that cannot send for this long has met the daemon's flow control, or its end.
const STALLED: Duration = Duration::from_secs(5);

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header that no table contains: literal, without indexing.
pub fn header_field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        string(&mut bytes, text);
    }
    bytes
}

/// A string without Huffman coding.
fn string(bytes: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        bytes.push(u8::try_from(length).unwrap());
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        bytes.push(u8::try_from(length).unwrap());
    }
    bytes.extend(text.as_bytes());
}

/// The headers of a call of `method`, such as `ReaderService/Get`.
pub fn call_headers(method: &str) -> Vec<u8> {
    // :method POST and :scheme http, from the static table; then :path, whose name is in it.
    let mut bytes = vec![0x83, 0x86, 0x04];
    string(&mut bytes, &format!("/driftdb.v1.{method}"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        bytes.extend(header_field(name, value));
    }
    bytes
}

/// The frame that begins a call.
pub fn begin(method: &str, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call_headers(method))
}

/// The frame that gives a stream up.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// The numbers of the streams that a client may begin, in order.
pub fn stream_ids() -> impl Iterator<Item = u32> {
    (1..1 << 31).step_by(2)
}

/// How a connection ended for a client that read it to its end.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct EndOfConnection {
    /// The error code of the GOAWAY frame, if one came.
    pub goaway: Option<u32>,
    /// The streams that the daemon reset, with the error codes.
    pub resets: Vec<(u32, u32)>,
    /// Whether the daemon closed the connection. Otherwise nothing came for a while.
    pub is_closed: bool,
}

/// A connection of frames.
#[derive(Debug)]
pub struct FrameConnection(TcpStream);

impl FrameConnection {
    /// Connects, and sends the preface and `settings`.
    pub async fn open(url: &str, settings: &[(u16, u32)]) -> FrameConnection {
        FrameConnection::open_from([127, 0, 0, 1].into(), url, settings).await
    }

    /// The same, from an address of this machine.
    pub async fn open_from(address: IpAddr, url: &str, settings: &[(u16, u32)]) -> FrameConnection {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        let mut stream = socket.connect(url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        bytes.extend(frame(SETTINGS, 0, 0, &payload));
        // A daemon that is under attack may have closed it already. The next send finds out.
        let _ = stream.write_all(&bytes).await;
        FrameConnection(stream)
    }

    /// Sends frames. Returns whether the daemon took them.
    pub async fn send(&mut self, frames: &[u8]) -> bool {
        matches!(tokio::time::timeout(STALLED, self.0.write_all(frames)).await, Ok(Ok(())))
    }

    /// Sends frames and takes what came meanwhile, without a look at it. Returns whether the daemon took them.
    pub async fn exchange(&mut self, frames: &[u8]) -> bool {
        let mut buffer = [0; 16 << 10];
        let (mut reading, mut writing) = self.0.split();
        let write = tokio::time::timeout(STALLED, writing.write_all(frames));
        let mut write = std::pin::pin!(write);
        loop {
            tokio::select! {
                written = &mut write => return matches!(written, Ok(Ok(()))),
                read = reading.read(&mut buffer) => if !matches!(read, Ok(1..)) { return false },
            }
        }
    }

    /// Reads until the daemon closes the connection, or until nothing has come for `patience`.
    pub async fn read_to_end(&mut self, patience: Duration) -> EndOfConnection {
        let (mut end, mut received) = (EndOfConnection::default(), Vec::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            match tokio::time::timeout(patience, self.0.read(&mut buffer)).await {
                Err(_) => return end,
                Ok(Ok(1..)) if received.len() > 64 << 20 => panic!("the daemon floods its client"),
                Ok(Ok(length @ 1..)) => received.extend_from_slice(&buffer[..length]),
                Ok(_) => {
                    end.is_closed = true;
                    return end;
                }
            }
            while let Some(length) = whole_frame(&received) {
                let rest = received.split_off(length);
                note(&mut end, &std::mem::replace(&mut received, rest));
            }
        }
    }
}

/// The length of the first frame, if it is there whole.
fn whole_frame(received: &[u8]) -> Option<usize> {
    let length = received.get(..3)?;
    let length = 9 + u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
    (received.len() >= length).then_some(length)
}

fn note(end: &mut EndOfConnection, frame: &[u8]) {
    let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    match frame[3] {
        RST_STREAM => end.resets.push((number(5), number(9))),
        GOAWAY => end.goaway = Some(number(13)),
        _ => {}
    }
}
