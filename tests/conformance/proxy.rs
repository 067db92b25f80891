//! Passes connections on, and can lose an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// How long the request has to arrive and to be done, before its connection breaks.
const LOST: Duration = Duration::from_millis(500);

/// A proxy in front of a daemon. Once it is armed, it keeps the next answer back, and then breaks the connection.
pub struct Proxy {
    pub address: String,
    arms: Arc<Arms>,
}

/// What a proxy is to lose, and what it has lost.
#[derive(Default)]
struct Arms {
    armed: AtomicBool,
    to_lose: AtomicUsize,
    lost: AtomicUsize,
}

impl Proxy {
    /// Listens on a free port.
    pub async fn start(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let arms = Arc::<Arms>::default();
        let shared = arms.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let daemon = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(pass_on(client, daemon, shared.clone()));
            }
        });
        Proxy { address, arms }
    }

    /// The next answer will be lost.
    pub fn arm(&self) {
        self.arms.to_lose.fetch_add(1, Ordering::SeqCst);
        self.arms.armed.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let counts = [&self.arms.lost, &self.arms.to_lose].map(|count| count.load(Ordering::SeqCst));
        // Without this, a scenario of lost answers could pass without one.
        assert!(std::thread::panicking() || counts[0] == counts[1], "{counts:?} answers were lost");
    }
}

async fn pass_on(mut client: TcpStream, mut daemon: TcpStream, arms: Arc<Arms>) {
    let (mut request, mut answer) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => match read {
                Ok(read) if read > 0 => {
                    if daemon.write_all(&request[..read]).await.is_err() {
                        return;
                    }
                    if arms.armed.swap(false, Ordering::SeqCst) {
                        if lose_answer(client, daemon).await {
                            arms.lost.fetch_add(1, Ordering::SeqCst);
                        }
                        return;
                    }
                }
                _ => return,
            },
            read = daemon.read(&mut answer) => match read {
                Ok(read) if read > 0 && client.write_all(&answer[..read]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}

/// Passes on what the client still sends, such as the rest of its request, and throws away what the daemon answers. Returns whether it
/// answered.
async fn lose_answer(client: TcpStream, daemon: TcpStream) -> bool {
    let ((mut from_client, _to_client), (mut from_daemon, mut to_daemon)) =
        (client.into_split(), daemon.into_split());
    let (mut answer, mut lost) = (vec![0; 65536], 0);
    let exchange = async {
        let requests = tokio::io::copy(&mut from_client, &mut to_daemon);
        let answers = async {
            while let Ok(read @ 1..) = from_daemon.read(&mut answer).await {
                lost += read;
            }
        };
        tokio::join!(requests, answers)
    };
    let _ = timeout(LOST, exchange).await;
    lost > 0
}
