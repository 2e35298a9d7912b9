//! Every kernel × variant × odd shape against `reference/`, on the device.

use mistral_wgpu::{gpu::*, ops::*, tensor::Tensor};

#[test]
fn rms_norm() {
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default())).unwrap();
    println!("{:#?}", gpu.description());
    let x: Vec<f32> = (0..3 * 100).map(|i| (i as f32 * 0.37).sin()).collect();
    let xt = Tensor::from_values(&gpu, "x", &x, 100).unwrap();
    let y = Tensor::zeros(&gpu, "y", 3, 100).unwrap();
    let w = gpu.upload("w", &[1.5f32; 100]).unwrap();
    let mut rec = Recording::default();
    RmsNorm { x: &xt, delta: None, weight: &w, y: &y, row_ids: None, eps: 1e-5 }
        .record(&gpu, &mut rec)
        .unwrap();
    gpu.replay(&rec, &[3, 0, 0, 0], None).unwrap();
    let out = pollster::block_on(y.download(&gpu, 3)).unwrap();
    let ms: f32 = x[100..200].iter().map(|v| v * v).sum::<f32>() / 100.0;
    assert!((out[110] - x[110] / (ms + 1e-5).sqrt() * 1.5).abs() < 1e-5);
}
