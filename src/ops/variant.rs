//! Tables of kernel variants and the choice among them.

use std::{collections::HashSet, fmt::Display, sync::Arc};

use crate::{
    Error, ErrorKind, Result,
    gpu::{Capability, Gpu, Kernel, KernelKey},
};

/// Invocations of a workgroup in the variants called `narrow`, each of which does by itself what a workgroup otherwise shares
/// out: as many as a CPU's vectors hold.
pub(super) const NARROW: u32 = 8;

/// The kernel of a variant called `narrow`, which reads two numbers at once.
pub(super) fn narrow_key(key: KernelKey) -> KernelKey {
    KernelKey { needs: &[Capability::Cpu, Capability::Int64], ..key.flag("narrow", true) }
}

/// One way to compute an operation of shape `S`.
pub struct Variant<S: 'static> {
    /// Name within its operation.
    pub name: &'static str,
    /// Whether it can compute this shape.
    pub fits: fn(&S) -> bool,
    /// The shader with everything that specialises it.
    pub key: fn(&S) -> KernelKey,
}

/// An operation with its variants, best first, the baseline last.
pub struct Operation<S: 'static> {
    /// Name, as in `operation/variant`.
    pub name: &'static str,
    /// Variants, best first. The last needs no capability and fits every shape.
    pub variants: &'static [Variant<S>],
}

impl<S> Operation<S> {
    /// Full name of a variant.
    pub fn full_name(&self, variant: &Variant<S>) -> String {
        format!("{}/{}", self.name, variant.name)
    }

    /// Variants that `gpu` can run for `shape` and has not rejected, best first.
    pub fn runnable(&self, gpu: &Gpu, shape: &S) -> impl Iterator<Item = &'static Variant<S>> {
        self.variants.iter().filter(|variant| {
            (variant.fits)(shape)
                && gpu.capabilities().has((variant.key)(shape).needs)
                && !gpu.rejects(&self.full_name(variant))
        })
    }

    /// A handle to the device for which `variant` is the only one of this operation.
    pub fn only(&self, gpu: &Gpu, variant: &Variant<S>) -> Gpu {
        let gpu = gpu.with_own_rejections();
        for other in self.variants.iter().filter(|other| other.name != variant.name) {
            gpu.reject(self.full_name(other));
        }
        gpu
    }

    /// The kernel of the variant that is probably the fastest without a measurement.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when every variant was rejected; as [`Gpu::kernel`].
    pub fn choose(&self, gpu: &Gpu, shape: &S) -> Result<(&'static Variant<S>, Arc<Kernel>)> {
        self.kernel(gpu, shape, self.variant(gpu, shape, None)?)
    }

    /// As [`Operation::choose_for`], without the kernel.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when every variant was rejected.
    pub fn variant_for(&self, gpu: &Gpu, shape: &S, subject: impl Display) -> Result<&'static Variant<S>> {
        self.variant(gpu, shape, gpu.preferred(&self.case(subject)))
    }

    /// The kernel of the variant that was measured fastest for `subject`, whose text names all sizes that
    /// speed depends on and nothing that the result's bits may not depend on; without a measurement, or where that variant
    /// cannot run, as [`Operation::choose`].
    ///
    /// # Errors
    /// As [`Operation::choose`].
    pub fn choose_for(
        &self,
        gpu: &Gpu,
        shape: &S,
        subject: impl Display,
    ) -> Result<(&'static Variant<S>, Arc<Kernel>)> {
        self.kernel(gpu, shape, self.variant_for(gpu, shape, subject)?)
    }

    /// What [`Gpu::prefer`] knows a subject of this operation by.
    pub(super) fn case(&self, subject: impl Display) -> String {
        format!("{}, {subject}", self.name)
    }

    fn kernel(
        &self,
        gpu: &Gpu,
        shape: &S,
        variant: &'static Variant<S>,
    ) -> Result<(&'static Variant<S>, Arc<Kernel>)> {
        Ok((variant, gpu.kernel(&(variant.key)(shape))?))
    }

    fn variant(&self, gpu: &Gpu, shape: &S, preferred: Option<String>) -> Result<&'static Variant<S>> {
        let preferred =
            preferred.and_then(|name| self.runnable(gpu, shape).find(|variant| variant.name == name));
        preferred.or_else(|| self.runnable(gpu, shape).next()).ok_or_else(|| {
            Error::new(ErrorKind::Device, self.name, "no kernel variant gives right results on this device")
        })
    }
}

/// Every shader of every operation over a range of shapes, once: what the tests without a GPU compose.
pub fn compositions() -> Vec<KernelKey> {
    use super::{matmul::BIAS, *};
    use crate::{quant::FORMATS, tensor::ActivationFormat};

    fn keys<S>(operation: &Operation<S>, shapes: impl IntoIterator<Item = S>) -> Vec<KernelKey> {
        let of_shape = |shape: S| {
            let key = move |variant: &Variant<S>| (variant.fits)(&shape).then(|| (variant.key)(&shape));
            operation.variants.iter().filter_map(key)
        };
        shapes.into_iter().flat_map(of_shape).collect()
    }
    let with_bias = |keys: Vec<KernelKey>, bias| keys.into_iter().map(move |key| key.flag(BIAS, bias));
    // Whether a weight has a bias, and whether a matrix for each expert: with each format and kernel, all four.
    const KINDS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];
    let attention = || {
        let heads = [(1, 1, 16), (6, 2, 20), (32, 8, 128), (8, 1, 256), (32, 1, 64)];
        heads.into_iter().flat_map(|(heads, kv_heads, head_dim)| {
            let shapes = KvFormat::all().map(move |kv| AttentionShape { heads, kv_heads, head_dim, kv });
            shapes.filter(|shape| shape.supported().is_ok())
        })
    };
    let mat_vec = || {
        FORMATS.into_iter().flat_map(|format| {
            let cols = [1, 3, 5, 8].into_iter().zip(KINDS).chain([(8, KINDS[0])]);
            cols.map(move |(cols, (bias, experts))| {
                (bias, MatVecShape { experts, ..MatVecShape::new(format, cols) })
            })
        })
    };
    let fused = |normed, epilogue| {
        let shape = move |format, cols| MatVecShape { normed, epilogue, ..MatVecShape::new(format, cols) };
        ["f16", "q8_0"].into_iter().flat_map(move |name| {
            let format = crate::quant::by_name(name).expect("a format of weights");
            [1, 8].map(|cols| shape(format, cols))
        })
    };
    let rope_kv = attention().filter(|shape| shape.chunks() == shape.head_dim / 2).flat_map(|shape| {
        [false, true].into_iter().flat_map(move |normed| fused(normed, EpilogueShape::RopeKv(shape)))
    });
    let mat_mat = || {
        FORMATS.into_iter().flat_map(|format| {
            let most = RowCount::MANY.into_iter().zip(KINDS).chain([(u32::MAX, KINDS[0])]);
            most.map(move |(most, (bias, experts))| {
                (bias, MatMatShape { format, rounded: true, most, experts })
            })
        })
    };
    let route = [(2, 1), (8, 2), (MAX_EXPERTS, 4)];
    let route = route.map(|(experts, chosen)| RouteShape { experts, chosen });
    let formats = ActivationFormat::ALL;
    let gather = || {
        [Axis::Rows, Axis::Cols]
            .into_iter()
            .flat_map(move |axis| formats.map(|format| GatherShape { axis, format }))
    };
    let rms_norm = || {
        let sources = [(false, false), (true, false), (false, true), (true, true)];
        sources.into_iter().flat_map(move |(residual, gather)| {
            formats.map(|format| RmsNormShape { residual, gather, format })
        })
    };
    let combine = || {
        attention()
            .flat_map(move |attention| formats.map(|format| AttentionCombineShape { attention, format }))
    };
    let lora = || {
        let shapes = [
            (4, LoraFormat::F32, RowCount::Few(1)),
            (8, LoraFormat::Bf16, RowCount::Few(2)),
            (24, LoraFormat::F16, RowCount::Few(8)),
            (64, LoraFormat::F32, RowCount::many(count::ROWS, 64)),
        ];
        shapes.into_iter().flat_map(|(ranks, factors, count)| {
            [false, true].map(|gather| LoraShape { ranks, factors, count, gather })
        })
    };
    let lora_down = || lora().flat_map(|shape| formats.map(|x| LoraDownShape { shape, x }));
    let all = [
        keys(&RMS_NORM, rms_norm()),
        keys(&EMBEDDING, FORMATS),
        keys(&FILL, FORMATS),
        mat_vec().flat_map(|(bias, shape)| with_bias(keys(&MAT_VEC, [shape]), bias)).collect(),
        with_bias(keys(&MAT_VEC_NORMED, fused(true, EpilogueShape::Plain)), true).collect(),
        with_bias(keys(&MAT_VEC_RMS_NORM, fused(false, EpilogueShape::RmsNorm)), true).collect(),
        keys(&MAT_VEC_SWIGLU, fused(true, EpilogueShape::Swiglu)),
        with_bias(keys(&MAT_VEC_SWIGLU, fused(false, EpilogueShape::Swiglu)), true).collect(),
        keys(&MAT_VEC_ROPE_KV, rope_kv),
        mat_mat().flat_map(|(bias, shape)| with_bias(keys(&MAT_MAT, [shape]), bias)).collect(),
        keys(&QUANTIZE, [ActivationFormat::Q8, ActivationFormat::F16]),
        keys(&ROPE_KV, attention()),
        keys(&ATTENTION_SINGLE, attention()),
        keys(&ATTENTION_TILED, attention()),
        keys(&ATTENTION_COMBINE, combine()),
        keys(&LORA_DOWN, lora_down()),
        keys(&LORA_UP, lora()),
        keys(&SWIGLU, formats),
        keys(&ROUTE, route),
        keys(&GATHER, gather()),
        keys(&EXPERT_SUM, [()]),
        keys(&RESIDUAL_ADD, [()]),
        keys(&ADJUST_LOGITS, [()]),
        keys(&TOP_K, [()]),
        keys(&SAMPLE, [()]),
        keys(&STREAM, [()]),
        keys(&MULTIPLY, [()]),
        keys(&CHAIN, [()]),
    ];
    let mut seen = HashSet::new();
    all.concat().into_iter().filter(|key| seen.insert(key.clone())).collect()
}
