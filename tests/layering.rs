//! The rooms of `src/` import only rooms above them (the order of the overview in `lib.rs`), and
//! only `gpu/` names wgpu.

use std::{fs, path::Path};

/// From the ground up.
const ROOMS: [&str; 12] = [
    "error",
    "gpu",
    "quant",
    "reference",
    "tensor",
    "ops",
    "hub",
    "checkpoint",
    "text",
    "model",
    "generate",
    "apps",
];

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR").to_owned() + "/src").unwrap();
            let text = fs::read_to_string(&path).unwrap();
            // Documentation may point upward.
            let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            found.push((name.to_str().unwrap().replace('\\', "/"), code.join("\n")));
        }
    }
}

/// Rooms that a source file names after `crate::`, alone or in braces.
fn imports(text: &str) -> Vec<&'static str> {
    let mut named = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let mut depth = 0;
        let mut word = String::new();
        for character in rest.chars() {
            match character {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => word.push(character),
                _ => {
                    // At depth 0 or 1 the word is a name directly below the crate.
                    if depth <= 1 {
                        named.extend(ROOMS.into_iter().filter(|room| *room == word));
                    }
                    word.clear();
                    match character {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    named
}

#[test]
fn rooms_import_only_rooms_above_them() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut checked = 0;
    for (name, text) in files {
        let room = name.split(['/', '.']).next().unwrap().to_owned();
        let Some(own) = ROOMS.iter().position(|known| *known == room) else { continue };
        for import in imports(&text) {
            let imported = ROOMS.iter().position(|known| *known == import).unwrap();
            assert!(imported <= own, "src/{name} imports `{import}`, which lies above `{room}`");
            checked += 1;
        }
        assert!(room == "gpu" || !text.contains("wgpu::"), "src/{name} names wgpu");
    }
    assert!(checked > 20, "only {checked} imports found: is the check still looking at them?");
}

#[test]
fn the_check_sees_imports() {
    assert_eq!(imports("use crate::model::Config;"), ["model"]);
    assert_eq!(
        imports("use crate::{\n    Error,\n    gpu::{Buffer, model},\n    text,\n};"),
        ["gpu", "text"]
    );
}
