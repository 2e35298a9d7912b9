// Results in blocks of 32: of 8-bit codes or, with `halves`, of 16-bit floats.
import package::generated::WORKGROUP;
@if(halves) import package::half::short_bits;
@else import package::quant::activations::{BlockScale, quantize_block};

@if(halves) @group(0) @binding(8) var<storage, read_write> y_halves: array<u32>;         // [rows, blocks, 16], two a word
@else @group(0) @binding(8) var<storage, read_write> y_codes: array<u32>;                // [rows, blocks, 8]
@if(!halves) @group(0) @binding(9) var<storage, read_write> y_scales: array<BlockScale>; // [rows, blocks]

@if(!narrow) var<workgroup> results: array<f32, WORKGROUP>;

// Every invocation calls with its value; those of 32 neighbours are a block, up to block `end`. With `first` 3, invocation
// 40 gives place 8 of block 4.
@if(!narrow)
fn store_blocks(first: u32, end: u32, index: u32, value: f32) {
    results[index] = value;
    workgroupBarrier();
    @if(halves)
    if index % 2u == 0u && first + index / 32u < end {
        y_halves[16u * first + index / 2u] = short_bits(vec2f(value, results[index + 1u]));
    }
    @if(!halves) {
        let block = first + index;
        if index < WORKGROUP / 32u && block < end {
            var quads: array<vec4f, 8>;
            for (var j = 0u; j < 8u; j++) {
                let at = 32u * index + 4u * j;
                quads[j] = vec4f(results[at], results[at + 1u], results[at + 2u], results[at + 3u]);
            }
            store_block(block, quads);
        }
    }
    workgroupBarrier();
}

// With `narrow`, an invocation computes all of a block.
@if(halves && narrow)
fn store_block(block: u32, values: array<vec4f, 8>) {
    for (var j = 0u; j < 8u; j++) {
        y_halves[16u * block + 2u * j] = short_bits(values[j].xy);
        y_halves[16u * block + 2u * j + 1u] = short_bits(values[j].zw);
    }
}

@elif(!halves)
fn store_block(block: u32, values: array<vec4f, 8>) {
    let quantized = quantize_block(values);
    for (var j = 0u; j < 8u; j++) {
        y_codes[8u * block + j] = quantized.codes[j];
    }
    y_scales[block] = quantized.scale;
}
