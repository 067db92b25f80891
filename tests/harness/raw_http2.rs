//! Calls as raw HTTP/2 streams, for clients that do what a gRPC library never does: leave answers unread, or never end.

use std::net::IpAddr;

use bytes::Bytes;
use driftdb::v1;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

/// A connection to a daemon. Dropping it closes the connection.
#[derive(Debug)]
pub struct RawConnection {
    sender: SendRequest<Bytes>,
    /// Sent with each call.
    token: Option<String>,
    driver: JoinHandle<()>,
}

/// A call. Its answer stays unread unless the test reads it.
#[derive(Debug)]
pub struct RawCall {
    pub body: SendStream<Bytes>,
    pub response: ResponseFuture,
}

impl Drop for RawConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl RawConnection {
    /// Connects. The daemon may send `window` bytes of each answer.
    pub async fn open(url: &str, window: u32) -> RawConnection {
        RawConnection::open_from([127, 0, 0, 1].into(), url, window).await
    }

    /// The same, from an address of this machine.
    pub async fn open_from(address: IpAddr, url: &str, window: u32) -> RawConnection {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        let stream = socket.connect(url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
        let mut client = h2::client::Builder::new();
        client.initial_window_size(window).initial_max_send_streams(4096).max_send_buffer_size(1 << 30);
        let (sender, connection) = client.handshake(stream).await.unwrap();
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a raw connection ended: {error}");
            }
        });
        RawConnection { sender, token: None, driver }
    }

    /// Calls with a token from now on.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> RawConnection {
        self.token = Some(token.to_owned());
        self
    }

    /// Starts a call of `method`, such as `ReaderService/Get`, without a message.
    pub async fn start(&mut self, method: &str) -> Option<RawCall> {
        self.start_at(&format!("/driftdb.v1.{method}")).await
    }

    /// Starts a call of any path.
    pub async fn start_at(&mut self, path: &str) -> Option<RawCall> {
        let mut request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).unwrap();
        self.sender = self.sender.clone().ready().await.ok()?;
        let (response, body) = self.sender.send_request(request, false).ok()?;
        Some(RawCall { body, response })
    }

    /// Calls `method` with one message.
    pub async fn call(&mut self, method: &str, message: &impl Message) -> Option<RawCall> {
        let mut call = self.start(method).await?;
        // The daemon may have refused the call already: that is its answer.
        let _ = call.body.send_data(framed(message), true);
        Some(call)
    }
}

impl RawCall {
    /// Waits for the start of the answer. Returns the gRPC status if the daemon refused the call, and the unread rest.
    pub async fn answer(self) -> (Option<i32>, Option<RecvStream>) {
        let Ok(response) = self.response.await else { return (None, None) };
        let status =
            response.headers().get("grpc-status").map(|status| status.to_str().unwrap().parse().unwrap());
        (status, Some(response.into_body()))
    }

    /// Sends `bytes` as the client's window allows. Returns whether the daemon took them all.
    pub async fn send(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            self.body.reserve_capacity(bytes.len().min(64 << 10));
            let capacity = std::future::poll_fn(|cx| self.body.poll_capacity(cx)).await;
            let Some(Ok(capacity)) = capacity else { return false };
            if capacity > 0 && self.body.send_data(bytes.split_to(capacity.min(bytes.len())), false).is_err()
            {
                return false;
            }
        }
        true
    }
}

/// A message as gRPC sends it.
pub fn framed(message: &impl Message) -> Bytes {
    let mut bytes = header(message.encoded_len());
    message.encode(&mut bytes).unwrap();
    bytes.into()
}

/// The header of a message of `length` bytes.
pub fn header(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
    bytes
}

/// What a use of a daemon's memory holds.
pub fn usage<'a>(memory: &'a [v1::MemoryUsage], name: &str) -> &'a v1::MemoryUsage {
    memory.iter().find(|usage| usage.name == name).unwrap()
}
