//! Reads the golden tensors in `tests/fixtures/`.
#![allow(dead_code)] // no test binary uses all of it

use std::path::Path;

use safetensors::SafeTensors;

pub struct Golden(Vec<u8>);

impl Golden {
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        let bytes = self.bytes(name);
        let size = bytes.len()
            / SafeTensors::deserialize(&self.0)
                .unwrap()
                .tensor(name)
                .unwrap()
                .shape()
                .iter()
                .product::<usize>();
        bytes.chunks_exact(size).map(|bytes| u32::from_le_bytes(bytes[..4].try_into().unwrap())).collect()
    }
}
