//! Models of the hub, from a server on this machine that speaks its protocol.

mod hub_server;

use std::{fs, path::Path, process::Command};

use hub_server::Server;
use mistral_wgpu::{
    ErrorKind,
    hub::{Hub, HubModel, select},
};
use proptest::prelude::*;
use tempfile::TempDir;

/// Bytes without a pattern that a wrong offset would meet again.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(count).collect()
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)).unwrap()
}

/// A repository in both layouts, as Mistral's are.
fn repository() -> Server {
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    Server::new([
        ("config.json", b"{}".to_vec()),
        ("params.json", b"{}".to_vec()),
        ("README.md", bytes(500)),
        ("tokenizer.json", bytes(3000)),
        ("tokenizer.model.v3", bytes(200)),
        ("model.safetensors.index.json", index.into()),
        ("model-00001-of-00002.safetensors", bytes(100_000)),
        ("model-00002-of-00002.safetensors", bytes(70_000)),
        ("model-old.safetensors", bytes(2000)),
        ("consolidated.safetensors", bytes(170_000)),
        ("pytorch_model.bin", bytes(170_000)),
    ])
}

fn hub(server: &Server, cache: &TempDir) -> Hub {
    Hub { endpoint: server.endpoint(), cache: cache.path().join("hub"), token: None }
}

fn model(name: &str) -> HubModel {
    name.parse().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_is_fetched_once() {
    let (server, cache) = (repository(), TempDir::new().unwrap());
    let (hub, model) = (hub(&server, &cache), model("owner/repo"));
    assert_eq!(hub.cached(&model), None);
    let mut reported = Vec::new();
    let folder = hub.pull(&model, &mut |f| reported.push((f.file.to_owned(), f.done, f.total))).unwrap();
    let expected = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "params.json",
        "tokenizer.json",
        "tokenizer.model.v3",
    ];
    assert_eq!(names(&folder), expected);
    assert_eq!(fs::read(folder.join("model-00001-of-00002.safetensors")).unwrap(), bytes(100_000));
    assert!(reported.contains(&("model-00001-of-00002.safetensors".into(), 100_000, 100_000)));
    assert_eq!(hub.cached(&model), Some(folder.clone()));
    // The whole path is that of Hugging Face's own cache.
    let state = &server.state;
    let sha = state.lock().unwrap().sha.clone();
    assert_eq!(folder, hub.cache.join("models--owner--repo/snapshots").join(&sha));
    assert_eq!(fs::read_to_string(hub.cache.join("models--owner--repo/refs/main")).unwrap(), sha);
    assert_eq!(hub.pull(&model, &mut |_| {}).unwrap(), folder);
    assert_eq!(server.fetches("model-00001-of-00002.safetensors"), 1);
    // Of another commit, only what has changed comes.
    state.lock().unwrap().sha = "f".repeat(40);
    state.lock().unwrap().files.insert("config.json".into(), b"{ }".to_vec());
    let newer = hub.pull(&model, &mut |_| {}).unwrap();
    assert_ne!(newer, folder);
    assert_eq!(server.fetches("model-00001-of-00002.safetensors"), 1);
    assert_eq!(fs::read(newer.join("config.json")).unwrap(), b"{ }");
    assert_eq!(fs::read(newer.join("tokenizer.json")).unwrap(), bytes(3000));
    // A file that is lost is noticed.
    fs::remove_file(newer.join("model-00002-of-00002.safetensors")).unwrap();
    assert_eq!(hub.cached(&model), None);
}

#[test]
fn mistrals_layout_is_fetched_when_asked_for() {
    let (server, cache) = (repository(), TempDir::new().unwrap());
    let file = hub(&server, &cache).pull(&model("owner/repo:consolidated.safetensors"), &mut |_| {}).unwrap();
    let expected =
        ["config.json", "consolidated.safetensors", "params.json", "tokenizer.json", "tokenizer.model.v3"];
    assert!(file.ends_with("consolidated.safetensors"));
    assert_eq!(names(file.parent().unwrap()), expected);
}

#[test]
fn a_broken_connection_goes_on_where_it_was() {
    let (server, cache) = (repository(), TempDir::new().unwrap());
    server.state.lock().unwrap().breaks = Some(30_000);
    let folder = hub(&server, &cache).pull(&model("owner/repo"), &mut |_| {}).unwrap();
    assert_eq!(fs::read(folder.join("model-00001-of-00002.safetensors")).unwrap(), bytes(100_000));
    assert_eq!(fs::read(folder.join("model-00002-of-00002.safetensors")).unwrap(), bytes(70_000));
    let state = server.state.lock().unwrap();
    let ranges: Vec<_> = state
        .asked
        .iter()
        .filter(|(path, range)| {
            path == "/store/model-00001-of-00002.safetensors" && range.as_deref() != Some("bytes=0-0")
        })
        .map(|(_, range)| range.clone().unwrap())
        .collect();
    assert_eq!(ranges, ["bytes=0-", "bytes=30000-", "bytes=60000-", "bytes=90000-"]);
}

#[test]
fn a_later_run_goes_on_with_what_there_is() {
    let (server, cache) = (repository(), TempDir::new().unwrap());
    let (hub, model) = (hub(&server, &cache), model("owner/repo"));
    // Nothing comes at all any more: given up after some tries.
    server.state.lock().unwrap().breaks = Some(0);
    let error = hub.pull(&model, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Hub);
    assert!(error.to_string().contains("goes on from there"), "{error}");
    assert_eq!(hub.cached(&model), None);
    // What an earlier run left: a part, all but the renaming, too much.
    let blobs = hub.cache.join("models--owner--repo/blobs");
    let part = |name: &str, size: usize| {
        blobs.join(format!("{}{size}", name.replace('.', "-"))).with_extension("part")
    };
    fs::write(part("model-00001-of-00002.safetensors", 100_000), &bytes(100_000)[..40_000]).unwrap();
    fs::write(part("model-00002-of-00002.safetensors", 70_000), bytes(70_000)).unwrap();
    fs::write(part("tokenizer.json", 3000), bytes(4000)).unwrap();
    server.state.lock().unwrap().breaks = None;
    server.state.lock().unwrap().asked.clear();
    let folder = hub.pull(&model, &mut |_| {}).unwrap();
    assert_eq!(fs::read(folder.join("model-00001-of-00002.safetensors")).unwrap(), bytes(100_000));
    assert_eq!(fs::read(folder.join("model-00002-of-00002.safetensors")).unwrap(), bytes(70_000));
    assert_eq!(fs::read(folder.join("tokenizer.json")).unwrap(), bytes(3000));
    let state = server.state.lock().unwrap();
    for (name, range) in [("1", "bytes=40000-"), ("2", "bytes=69999-")] {
        let path = format!("/store/model-0000{name}-of-00002.safetensors");
        assert!(state.asked.contains(&(path, Some(range.into()))), "{:?}", state.asked);
    }
}

#[test]
fn a_server_that_passes_over_ranges_does_not_spoil_a_file() {
    let (server, cache) = (repository(), TempDir::new().unwrap());
    let hub = hub(&server, &cache);
    server.state.lock().unwrap().no_ranges = true;
    let blobs = hub.cache.join("models--owner--repo/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("tokenizer-json3000.part"), &bytes(3000)[..1000]).unwrap();
    let folder = hub.pull(&model("owner/repo"), &mut |_| {}).unwrap();
    assert_eq!(fs::read(folder.join("tokenizer.json")).unwrap(), bytes(3000));
}

/// Asserts that a model cannot be had, and that the error says all this.
fn refused(hub: &Hub, name: &str, parts: &[&str]) {
    let error = hub.pull(&model(name), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Hub, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{error} does not say {part}");
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let (server, cache) = (repository(), TempDir::new().unwrap());
    let mut hub = hub(&server, &cache);
    refused(&hub, "owner/none", &["owner/none", "no such repository", "HF_TOKEN"]);
    server.state.lock().unwrap().token = Some("secret");
    let page = format!("{}/owner/repo", server.endpoint());
    refused(&hub, "owner/repo", &["config.json", "gated", &page, "settings/tokens", "HF_TOKEN"]);
    hub.token = Some("wrong".into());
    refused(&hub, "owner/none", &["owner/none", "no such repository: check the name"]);
    refused(&hub, "owner/repo", &["does not accept the token"]);
    server.state.lock().unwrap().refusal = 403;
    refused(&hub, "owner/repo", &["access is not granted", &page]);
    hub.token = Some("secret".into());
    hub.pull(&model("owner/repo"), &mut |_| {}).unwrap();
    server.state.lock().unwrap().ghosts = vec!["generation_config.json".into()];
    refused(&hub, "owner/repo", &["generation_config.json", "no such file"]);
    server.state.lock().unwrap().busy = vec![400];
    refused(&hub, "owner/repo", &["status 400"]);
}

#[test]
fn a_busy_hub_is_asked_again_and_a_missing_one_given_up() {
    let (server, cache) = (repository(), TempDir::new().unwrap());
    server.state.lock().unwrap().busy = vec![503, 429];
    let mut hub = hub(&server, &cache);
    hub.pull(&model("owner/repo"), &mut |_| {}).unwrap();
    hub.endpoint = "http://127.0.0.1:1".into();
    refused(&hub, "owner/repo", &["127.0.0.1:1", "HF_ENDPOINT"]);
}

#[test]
fn gguf_files_are_chosen_by_quantization_with_all_their_parts() {
    let server = Server::new([
        ("config.json", b"{}".to_vec()),
        ("m.Q4_K_S.gguf", bytes(2000)),
        ("m.Q4_K_M.gguf", bytes(3000)),
        ("mmproj-m-Q4_K_M.gguf", bytes(100)),
        ("Q8_0/m-Q8_0-00001-of-00002.gguf", bytes(1500)),
        ("Q8_0/m-Q8_0-00002-of-00002.gguf", bytes(1600)),
        ("m-F16-00001-of-00002.gguf", bytes(1500)),
    ]);
    let cache = TempDir::new().unwrap();
    let hub = hub(&server, &cache);
    let pull = |name: &str| hub.pull(&model(name), &mut |_| {}).unwrap();
    let file = pull("owner/repo:q4_k_m");
    assert_eq!(
        (file.file_name().unwrap().to_str().unwrap(), fs::read(&file).unwrap()),
        ("m.Q4_K_M.gguf", bytes(3000))
    );
    assert_eq!(hub.cached(&model("owner/repo:Q4_K_M")), Some(file.clone()));
    assert_eq!(hub.cached(&model("owner/repo:Q8_0")), None);
    assert_eq!(pull("owner/repo:m.Q4_K_S.gguf"), file.with_file_name("m.Q4_K_S.gguf"));
    let first = pull("owner/repo:Q8_0");
    assert!(first.ends_with("Q8_0/m-Q8_0-00001-of-00002.gguf"));
    assert_eq!(fs::read(first.with_file_name("m-Q8_0-00002-of-00002.gguf")).unwrap(), bytes(1600));
    assert_eq!(hub.cached(&model("owner/repo:Q8_0")), Some(first));
    refused(&hub, "owner/repo", &["which of its GGUF files", "m.Q4_K_M.gguf", "Q8_0"]);
    refused(&hub, "owner/repo:Q4_K", &["no file Q4_K", "m.Q4_K_S.gguf"]);
    refused(&hub, "owner/repo:F16", &["all parts", "m-F16-00002-of-00002.gguf"]);
}

#[test]
fn repositories_without_a_model_are_refused() {
    let cache = TempDir::new().unwrap();
    let server = Server::new([("pytorch_model.bin", bytes(10)), ("config.json", b"{}".to_vec())]);
    refused(&hub(&server, &cache), "owner/repo", &["pickle", "safetensors or GGUF"]);
    let server = Server::new([("README.md", bytes(10))]);
    refused(&hub(&server, &cache), "owner/repo", &["no weights"]);
    // Names that would leave the cache are none.
    let server = Server::new([("config.json", b"{}".to_vec())]);
    server.state.lock().unwrap().ghosts = vec!["../../model.safetensors".into(), "/model.gguf".into()];
    refused(&hub(&server, &cache), "owner/repo", &["no weights"]);
    server.state.lock().unwrap().sha = "../..".into();
    refused(&hub(&server, &cache), "owner/repo", &["a commit"]);
    for name in [
        "",
        "repo",
        "owner/",
        "/repo",
        "owner/..",
        "../repo",
        "owner/repo:",
        "owner/a b",
        "a/b/c",
        "owner/r\n",
    ] {
        assert_eq!(name.parse::<HubModel>().unwrap_err().kind(), ErrorKind::Argument, "{name}");
    }
}

#[test]
fn the_command_line_fetches_and_runs() {
    let files = ["config.json", "model.safetensors"].map(|name| (name, fixture(&format!("windowed/{name}"))));
    let (server, cache) = (Server::new(files), TempDir::new().unwrap());
    let run = |endpoint: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mistral"));
        command.args(arguments).env("HF_HOME", cache.path()).env("HF_ENDPOINT", endpoint);
        command.env_remove("HF_TOKEN").env_remove("HF_HUB_CACHE").output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let pulled = run(&server.endpoint(), &["pull", "owner/repo"]);
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let folder = text(&pulled.stdout);
    assert!(Path::new(folder.trim()).join("model.safetensors").exists(), "{folder}");
    // From the cache: nobody listens there.
    let shown = run("http://127.0.0.1:1", &["inspect", "hf:owner/repo", "--json"]);
    assert!(text(&shown.stdout).contains("\"hidden_size\":32"), "{}", text(&shown.stderr));
    let missing = run(&server.endpoint(), &["inspect", "--model", "hf:owner/none"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("error: owner/none: there is no such repository"));
    assert_eq!(run("", &["pull", "owner"]).status.code(), Some(2));
}

proptest! {
    #[test]
    fn no_names_make_it_panic(
        names in prop::collection::vec("(model|consolidated|m-Q4_K_M|a/b|é)?(-0000[0-9]-of-0000[0-9])?[.](gguf|safetensors|json)|[./a-z]{0,8}", 0..8),
        choice in prop::option::of("[A-Za-z0-9_.]{1,12}|Q4_K_M|é"),
    ) {
        let model = HubModel { repository: "owner/repo".into(), choice };
        let _ = select(&names, &model);
        let _ = names.join(":").parse::<HubModel>();
    }
}
