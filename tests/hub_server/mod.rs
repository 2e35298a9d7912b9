//! A server on this machine that speaks the hub's protocol: listings, ranges, redirects of large files to a store
//! that is another host, etags, refusals, and connections that break.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What the server has and how it misbehaves.
#[derive(Default)]
pub struct State {
    /// Files by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Names in the listing that have no file.
    pub ghosts: Vec<String>,
    /// The commit.
    pub sha: String,
    /// The token that opens the files, where one is needed.
    pub token: Option<&'static str>,
    /// Status for files asked for with another token.
    pub refusal: u16,
    /// Bytes after which a connection with a large file breaks, each time it is asked for.
    pub breaks: Option<usize>,
    /// Statuses for the next requests.
    pub busy: Vec<u16>,
    /// Whether ranges are passed over, and all of a file is sent.
    pub no_ranges: bool,
    /// Paths and ranges that were asked for.
    pub asked: Vec<(String, Option<String>)>,
}

pub struct Server {
    pub state: Arc<Mutex<State>>,
    port: u16,
}

/// Files as large as this lie in the store.
const LARGE: usize = 1000;

impl Server {
    pub fn new(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Self {
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let state = State { files, sha: "0123456789abcdef".repeat(2), refusal: 401, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                thread::spawn(move || drop(answer(stream.unwrap(), &shared, port)));
            }
        });
        Self { state, port }
    }

    /// What `HF_ENDPOINT` is to be.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How often a file's content was asked for, not counting the single byte that tells its size.
    pub fn fetches(&self, name: &str) -> usize {
        let state = self.state.lock().unwrap();
        let of = |(path, range): &&(String, Option<String>)| {
            path.ends_with(name) && range.as_deref() != Some("bytes=0-0") && path.contains("/resolve/")
        };
        state.asked.iter().filter(of).count()
    }
}

/// Answers one request and closes the connection.
fn answer(stream: TcpStream, state: &Mutex<State>, port: u16) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let range = headers.get("range").cloned();
    let authorization = headers.get("authorization").cloned();
    let mut state = state.lock().unwrap();
    state.asked.push((path.clone(), range.clone()));
    if let Some(status) = state.busy.pop() {
        return send(&stream, status, &[], b"");
    }
    let known = state.token.is_none_or(|token| authorization == Some(format!("Bearer {token}")));
    if let Some(rest) = path.strip_prefix("/api/models/owner/repo/revision/") {
        assert_eq!(rest, "main");
        let names = state.files.keys().chain(&state.ghosts);
        let siblings: Vec<_> = names.map(|name| serde_json::json!({"rfilename": name})).collect();
        let listing = serde_json::json!({"sha": state.sha, "siblings": siblings}).to_string();
        return send(&stream, 200, &[("content-type", "application/json")], listing.as_bytes());
    }
    if path.starts_with("/api/") {
        // What the hub says of repositories that are not there to those without a token.
        return send(&stream, if authorization.is_some() { 404 } else { 401 }, &[], b"");
    }
    let stored = path.strip_prefix("/store/");
    let name = match stored {
        Some(name) => name.to_owned(),
        None => match path.strip_prefix(&format!("/owner/repo/resolve/{}/", state.sha)) {
            Some(_) if !known => return send(&stream, state.refusal, &[], b""),
            Some(name) => name.to_owned(),
            None => return send(&stream, 404, &[], b""),
        },
    };
    let Some(bytes) = state.files.get(&name).cloned() else { return send(&stream, 404, &[], b"") };
    let etag = format!("\"{}{}\"", name.replace(['/', '.'], "-"), bytes.len());
    let commit = state.sha.clone();
    if bytes.len() >= LARGE && stored.is_none() {
        // Another name of this machine is another host.
        let location = format!("http://localhost:{port}/store/{name}");
        let headers = [
            ("location", &*location),
            ("x-linked-etag", &*etag),
            ("x-repo-commit", &*commit),
            ("etag", "\"x\""),
        ];
        return send(&stream, 302, &headers, b"");
    }
    let first = range.as_ref().and_then(|range| range.strip_prefix("bytes="));
    let (first, last) = first.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let (first, last) = (first.parse::<usize>().unwrap(), last.parse().unwrap_or(bytes.len() - 1));
    if first >= bytes.len() {
        return send(&stream, 416, &[], b"");
    }
    let breaks = state.breaks.filter(|_| stored.is_some() && last > first);
    if state.no_ranges && last > first {
        drop(state);
        return send(&stream, 200, &[("etag", &etag), ("x-repo-commit", &commit)], &bytes);
    }
    drop(state);
    let part = &bytes[first..=last];
    let content_range = format!("bytes {first}-{last}/{}", bytes.len());
    let headers = [("content-range", &*content_range), ("etag", &*etag), ("x-repo-commit", &*commit)];
    match breaks {
        Some(most) if part.len() > most => {
            head(&stream, 206, &headers, part.len())?;
            (&stream).write_all(&part[..most])
        }
        _ => send(&stream, 206, &headers, part),
    }
}

fn head(mut stream: &TcpStream, status: u16, headers: &[(&str, &str)], length: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all((text + "\r\n").as_bytes())
}

fn send(mut stream: &TcpStream, status: u16, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<()> {
    head(stream, status, headers, body.len())?;
    stream.write_all(body)
}
