//! What a device can do at best: how fast it reads memory and multiplies, and what a dispatch costs. Every time
//! that `mistral bench` measures is held against it (the roofline model: Williams, Waterman and Patterson 2009,
//! doi:10.1145/1498765.1498785).

use std::{sync::Arc, time::Instant};

use super::{Operation, Variant};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Bindings, Buffer, Capability, Cost, Extent, Gpu, Kernel, KernelKey, Recording, Step},
    uniform,
};

uniform! {
    struct StreamParams { sought: u32 }
}

uniform! {
    struct MultiplyParams { rounds: u32, factor: f32 }
}

const WORKGROUP: u32 = 256;
/// Vectors of 16 bytes that an invocation of the stream kernels reads.
const EACH: u32 = 16;
/// Vectors of four numbers that an invocation of the multiply kernels goes on with.
const CHAINS: u32 = 2;
const UNROLL: u32 = 16;
/// Sums that a subgroup of the matrix kernels goes on with, and invocations of a workgroup.
const MATRICES: u32 = 4;
const MATRIX_WORKGROUP: u32 = 64;

fn stream() -> KernelKey {
    let key = KernelKey::new("roofline/stream").with::<StreamParams>();
    key.constant("WORKGROUP", WORKGROUP).constant("EACH", EACH)
}

fn multiply(needs: &'static [Capability]) -> KernelKey {
    let key = KernelKey::new("roofline/multiply").with::<MultiplyParams>();
    let key = key.constant("WORKGROUP", WORKGROUP).constant("CHAINS", CHAINS).constant("UNROLL", UNROLL);
    KernelKey { needs, ..key }
}

fn matrix(size: u32) -> KernelKey {
    let key = KernelKey::new("roofline/matrix").with::<MultiplyParams>();
    key.constant("WORKGROUP", MATRIX_WORKGROUP).constant("UNROLL", UNROLL).matrices(size)
}

/// Ways to read a buffer; which is faster depends on the device.
pub static STREAM: Operation<()> = Operation {
    name: "stream",
    variants: &[
        // Suit devices whose lanes are not one vector register: CPUs.
        Variant {
            name: "stretches_int64",
            fits: |()| true,
            key: |()| KernelKey { needs: &[Capability::Int64], ..stream().flag("stretches", true) },
        },
        Variant { name: "stretches", fits: |()| true, key: |()| stream().flag("stretches", true) },
        Variant { name: "baseline", fits: |()| true, key: |()| stream() },
    ],
};

/// Kinds of multiplication. Each is a rate of its own, not a form of the same.
pub static MULTIPLY: Operation<()> = Operation {
    name: "multiply",
    variants: &[
        Variant { name: "matrix 16×16", fits: |()| true, key: |()| matrix(16) },
        Variant { name: "matrix 8×8", fits: |()| true, key: |()| matrix(8) },
        Variant { name: "integer", fits: |()| true, key: |()| multiply(&[Capability::Integer]) },
        Variant { name: "f16", fits: |()| true, key: |()| multiply(&[Capability::F16]) },
        Variant { name: "f32", fits: |()| true, key: |()| multiply(&[]) },
    ],
};

/// A dispatch that depends on the one before.
pub static CHAIN: Operation<()> = Operation {
    name: "chain",
    variants: &[Variant { name: "baseline", fits: |()| true, key: |()| KernelKey::new("roofline/chain") }],
};

/// What a device did at best.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    /// Bytes read over and over, and bytes per second; by ascending size, the last beyond all caches.
    pub bandwidth: Vec<(u64, f64)>,
    /// Kind of multiplication and operations per second, a multiply-add being two.
    pub rates: Vec<(&'static str, f64)>,
    /// Seconds that a dispatch adds which depends on the one before.
    pub dispatch_seconds: f64,
    /// Seconds from submitting one such dispatch to knowing that it is done.
    pub round_trip_seconds: f64,
}

/// Seconds that a measurement should take at least, against the cost of submitting and the clock's steps.
const LONG_ENOUGH: f64 = 0.02;
/// The best of so many counts.
const TRIES: usize = 5;
/// Seconds after which a measurement is not tried again.
const TOO_LONG: f64 = 0.5;
/// Largest amount of memory read, and the most that one step binds.
const STREAM_BYTES: u64 = 1 << 30;
const PIECE_BYTES: u64 = 128 << 20;

impl Roofline {
    /// Measures `gpu` in a few seconds, and checks that the kernels did what they were to do. Kinds of multiplication that
    /// do not work on it are left out, but for `f32`.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when they did not; as [`Gpu::allocate`] and [`Gpu::kernel`].
    pub async fn measure(gpu: &Gpu) -> Result<Self> {
        let mut rates = Vec::new();
        for variant in MULTIPLY.runnable(gpu, &()) {
            match rate(gpu, variant).await {
                Ok(rate) => rates.push((variant.name, rate)),
                Err(error)
                    if variant.name != "f32"
                        && matches!(error.kind(), ErrorKind::Shader | ErrorKind::Device) =>
                {
                    tracing::warn!("{error}");
                }
                Err(error) => return Err(error),
            }
        }
        let (dispatch_seconds, round_trip_seconds) = dispatch_costs(gpu).await?;
        Ok(Self { bandwidth: bandwidth(gpu).await?, rates, dispatch_seconds, round_trip_seconds })
    }

    /// Bytes per second of reading `bytes` over and over: the best that was measured, for the largest amount that is no
    /// more or for a larger one, as small ones keep a large GPU busy with starting.
    pub fn bandwidth_at(&self, bytes: f64) -> f64 {
        let no_more = self.bandwidth.iter().rposition(|(size, _)| *size as f64 <= bytes).unwrap_or(0);
        self.bandwidth[no_more..].iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }

    /// The fastest kind of multiplication, and its operations per second.
    pub fn fastest(&self) -> (&'static str, f64) {
        let fastest = self.rates.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        *fastest.expect("f32 is measured everywhere")
    }

    /// Seconds below which no pass can be that reads `bytes`, computes `operations` and makes `dispatches`, one after the
    /// other.
    pub fn seconds(&self, bytes: f64, operations: f64, dispatches: f64) -> f64 {
        let memory = bytes / self.bandwidth_at(bytes);
        memory.max(operations / self.fastest().1) + dispatches * self.dispatch_seconds
    }
}

/// A recording of `steps`.
fn recording(steps: impl IntoIterator<Item = Step>) -> Recording {
    let mut recording = Recording::default();
    steps.into_iter().for_each(|step| recording.push(step));
    recording
}

fn dispatch(gpu: &Gpu, kernel: &Arc<Kernel>, bindings: &Bindings, workgroups: u32) -> Result<Step> {
    let grid = [workgroups, 1, 1].map(Extent::Fixed);
    // Costs nothing, so that it is neither split nor learned from.
    Step::new(gpu, "roofline", kernel.clone(), bindings, grid, Cost::default())
}

/// Seconds until `recording` is done.
fn seconds(gpu: &Gpu, recording: &Recording) -> Result<f64> {
    let start = Instant::now();
    gpu.replay(recording, &[0], None)?;
    gpu.wait()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The least of some runs of `recording`, fewer if they are long.
fn least(gpu: &Gpu, recording: &Recording) -> Result<f64> {
    let start = Instant::now();
    let mut least = f64::INFINITY;
    for _ in 0..TRIES {
        least = least.min(seconds(gpu, recording)?);
        if start.elapsed().as_secs_f64() > TOO_LONG {
            break;
        }
    }
    Ok(least)
}

/// Amount of work, at most `most`, that takes [`LONG_ENOUGH`], and the least seconds that it took.
fn paced(gpu: &Gpu, most: u32, make: impl Fn(u32) -> Result<Recording>) -> Result<(f64, f64)> {
    let mut amount = 1;
    loop {
        let recording = make(amount)?;
        // The first run compiles.
        seconds(gpu, &recording)?;
        let took = seconds(gpu, &recording)?;
        if took >= LONG_ENOUGH || amount == most {
            return Ok((amount.into(), least(gpu, &recording)?.min(took)));
        }
        let factor = (1.2 * LONG_ENOUGH / took.max(1e-6)).clamp(2.0, 16.0);
        amount = ((f64::from(amount) * factor) as u32).min(most);
    }
}

/// Operations per second of a kind of multiplication.
async fn rate(gpu: &Gpu, variant: &Variant<()>) -> Result<f64> {
    let kernel = gpu.kernel(&(variant.key)(&()))?;
    match variant.name {
        "matrix 16×16" => matrix_rate(gpu, &kernel, 16).await,
        "matrix 8×8" => matrix_rate(gpu, &kernel, 8).await,
        name => multiply_rate(gpu, &kernel, name).await,
    }
}

/// Operations per second of a multiply kernel.
async fn multiply_rate(gpu: &Gpu, kernel: &Arc<Kernel>, name: &str) -> Result<f64> {
    const WORKGROUPS: u32 = 2048;
    let integer = name == "integer";
    let sums = gpu.allocate("sums", u64::from(WORKGROUP) * 4)?;
    let (rounds, seconds) = paced(gpu, 1 << 16, |rounds| {
        let params = gpu.uniform(&MultiplyParams { rounds, factor: if integer { 0.0 } else { 0.5 } })?;
        Ok(recording([dispatch(gpu, kernel, &[("params", &params), ("sums", &sums)], WORKGROUPS)?]))
    })?;
    let resting = |chain: u32| if integer { (2 + chain) as f32 } else { 2.0 };
    let expected: f32 = (0..CHAINS).map(|chain| 4.0 * resting(chain)).sum();
    // One round brings the 257 of the last invocation to within 2^-8 of where it comes to rest.
    check(gpu, name, &sums, |sum: f32| (sum - expected).abs() < 0.1).await?;
    let per_element = if integer { 8.0 } else { 2.0 };
    let elements = f64::from(4 * CHAINS * UNROLL) * f64::from(WORKGROUP * WORKGROUPS);
    Ok(per_element * elements * rounds / seconds)
}

/// Operations per second of a matrix kernel.
async fn matrix_rate(gpu: &Gpu, kernel: &Arc<Kernel>, size: u32) -> Result<f64> {
    const WORKGROUPS: u32 = 2048;
    let ones = gpu.upload("ones", &vec![half::f16::ONE; (size * size) as usize])?;
    let sums = gpu.allocate("sums", u64::from(MATRICES * size * size) * 4)?;
    let subgroups = gpu.allocate("subgroups", 4)?;
    let (rounds, seconds) = paced(gpu, 1 << 16, |rounds| {
        let params = gpu.uniform(&MultiplyParams { rounds, factor: 0.0 })?;
        let bindings = [("params", &params), ("ones", &ones), ("sums", &sums), ("subgroups", &subgroups)];
        Ok(recording([dispatch(gpu, kernel, &bindings, WORKGROUPS)?]))
    })?;
    let steps = f64::from(UNROLL) * rounds;
    // Sums beyond 2^24 are no whole numbers any more.
    let expected = steps * f64::from(size);
    check(gpu, "matrix", &sums, |sum: f32| (f64::from(sum) / expected - 1.0).abs() < 1e-2).await?;
    let subgroups = gpu.download::<u32>(&[subgroups]).await?[0][0];
    let products = steps * f64::from(MATRICES) * f64::from(subgroups * WORKGROUPS);
    Ok(2.0 * f64::from(size).powi(3) * products / seconds)
}

/// Bytes per second by size, as long as they take no longer than a tenth of a second.
async fn bandwidth(gpu: &Gpu) -> Result<Vec<(u64, f64)>> {
    let most = gpu.description().memory.free.map_or(STREAM_BYTES / 4, |free| STREAM_BYTES.min(free / 4));
    let kernels = STREAM.runnable(gpu, &()).map(|variant| gpu.kernel(&(variant.key)(&())));
    let kernels = kernels.collect::<Result<Vec<_>>>()?;
    let mut measured = Vec::new();
    let mut pieces: Vec<Buffer> = Vec::new();
    let sizes = (20..).step_by(2).map(|bits| 1u64 << bits);
    for bytes in sizes.take_while(|bytes| *bytes <= most) {
        let piece = bytes.min(PIECE_BYTES).min(gpu.limits().binding);
        pieces.retain(|buffer| buffer.size() == piece);
        if pieces.is_empty() {
            pieces.push(gpu.upload("stream", &vec![1u32; piece as usize / 4])?);
        }
        let mut copies = Recording::default();
        while (pieces.len() as u64) < bytes / piece {
            pieces.push(gpu.allocate("stream", piece)?);
            copies.copy(&pieces[0], &pieces[pieces.len() - 1]);
        }
        gpu.replay(&copies, &[], None)?;
        let mut best = f64::INFINITY;
        for kernel in &kernels {
            best = best.min(stream_seconds(gpu, kernel, &pieces).await?);
        }
        measured.push((bytes, bytes as f64 / best));
        if best > 0.1 {
            break;
        }
    }
    Ok(measured)
}

/// Seconds that a stream kernel takes to read `pieces` of equal size once.
async fn stream_seconds(gpu: &Gpu, kernel: &Arc<Kernel>, pieces: &[Buffer]) -> Result<f64> {
    let invocations = pieces[0].size() / 16 / u64::from(EACH);
    let params = gpu.uniform(&StreamParams { sought: 4 * EACH })?;
    // A count for each step: steps that write to one buffer wait for each other.
    let most = 256;
    let counts = (0..most).map(|_| gpu.allocate("found", 4)).collect::<Result<Vec<_>>>()?;
    let mut steps = Vec::new();
    for (found, piece) in counts.iter().zip(pieces.iter().cycle()) {
        let bindings = [("params", &params), ("source", piece), ("found", found)];
        steps.push(dispatch(gpu, kernel, &bindings, invocations.div_ceil(WORKGROUP.into()) as u32)?);
    }
    let passes = |passes: u32| Ok(recording(steps[..passes as usize * pieces.len()].iter().cloned()));
    let (passes, seconds) = paced(gpu, most / pieces.len() as u32, passes)?;
    // The ones of every invocation of every run add up to what was sought.
    let every = |found: u32| found > 0 && u64::from(found) % invocations == 0;
    check(gpu, "stream", &counts[0], every).await?;
    Ok(seconds / passes)
}

/// Seconds that a dependent dispatch adds, and those of a submission that is waited for.
async fn dispatch_costs(gpu: &Gpu) -> Result<(f64, f64)> {
    const LONG: u32 = 512;
    let kernel = gpu.kernel(&(CHAIN.variants[0].key)(&()))?;
    let count = gpu.allocate("count", 4)?;
    let step = dispatch(gpu, &kernel, &[("count", &count)], 1)?;
    let [one, many] = [1, LONG].map(|length| recording((0..length).map(|_| step.clone())));
    seconds(gpu, &many)?;
    let [short, long] = [least(gpu, &one)?, least(gpu, &many)?];
    check(gpu, "chain", &count, |count: u32| count > 2 * LONG).await?;
    Ok(((long - short).max(0.0) / f64::from(LONG - 1), short))
}

/// Whether all of what a kernel left is as it should be.
async fn check<T: bytemuck::AnyBitPattern + std::fmt::Debug>(
    gpu: &Gpu,
    name: &str,
    left: &Buffer,
    right: impl Fn(T) -> bool,
) -> Result<()> {
    let values = gpu.download::<T>(std::slice::from_ref(left)).await?.remove(0);
    match values.into_iter().find(|value| !right(*value)) {
        None => Ok(()),
        Some(wrong) => {
            let subject = format!("measurement `{name}`");
            Err(Error::new(ErrorKind::Device, subject, format_args!("a kernel left {wrong:?}")))
        }
    }
}
