// y = x · weightᵀ for COLS rows of x; with `experts`, for the rows of each expert, COLS at a time. A workgroup computes ROWS outputs of each; its invocations share
// out the weight rows and then add up their sums. Neighbouring invocations read neighbouring quads. With `words` they read
// neighbouring words of codes, two quads each, whose products are summed before they are scaled; in subgroups, four of
// them share the work on a block's scales. With `halves` x is there in 16 bits. With `integer` they read neighbouring blocks: then both
// factors are integer codes, whose products are summed exactly.
//
// Every output is summed in the same order whatever COLS and ROWS are, in explicit `fma`, so that a
// row of x gives the same bits whatever rows it is batched with.
//
// With `normed`, rows of x are still to be divided by the root of their mean square: see epilogue/rms_norm.
import package::epilogue::{UNIT, finish};
import package::generated::{COLS, QUADS, ROWS, WORKGROUP};
@if(halves) import package::half::half_quad;
import package::mat_vec_task::{Task, block_of, first_task, params, root_scale, x_row};
import package::quant::activations::{BlockScale, Parts, dot_block, parts_of};
import package::quant::scales::weight_scale;
import package::reduce::Invocation;
import package::weight::{DOTS, WeightScale, code_values, code_words, weight_codes, weight_dot, weight_quad};

@if(integer) @group(0) @binding(3) var<storage, read> x_codes: array<vec4u>;       // [rows, blocks, 2]
@if(integer) @group(0) @binding(5) var<storage, read> x_scales: array<BlockScale>; // [rows, blocks]
@elif(halves) @group(0) @binding(3) var<storage, read> x: array<vec2u>;            // [rows, blocks * QUADS] times four halves
@else @group(0) @binding(3) var<storage, read> x: array<vec4f>;                    // [rows, blocks * QUADS], then squares if normed

// What an invocation takes of a block at once: all of it, two of its quads, or one.
@if(integer) const PARTS = 1u;
@elif(words) const PARTS = QUADS / 2u;
@else const PARTS = QUADS;

// One more than there are rows is that of the squares of x.
@if(normed) const SUMS = ROWS + 1u;
@else const SUMS = ROWS;

// Nested, so that every index is a loop's own counter: drivers unroll such loops and keep the sums in registers.
alias Sums = array<array<f32, COLS>, SUMS>;

@if(subgroup) var<workgroup> partial_sums: array<Sums, WORKGROUP>; // one per subgroup, subgroups of one at worst
@else var<workgroup> partial_sums: array<Sums, WORKGROUP>;         // one per invocation

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    invocation: Invocation,
    @if(subgroup) @builtin(subgroup_size) _size: u32, // see Invocation
) {
    var task = first_task(workgroup.y);
    @if(experts)
    for (; task.first < task.end; task.first += COLS) {
        multiply(task, workgroup.x * ROWS, invocation);
        workgroupBarrier();
    }
    @if(!experts)
    multiply(task, workgroup.x * ROWS, invocation);
}

fn multiply(task: Task, first: u32, invocation: Invocation) {
    var sums: Sums;
    let parts = params.blocks * PARTS;
    @if(words)
    for (var part = 0u; part < parts; part += WORKGROUP) {
        add_part(&sums, task, first, part + invocation.index);
    }
    @else
    for (var part = invocation.index; part < parts; part += WORKGROUP) {
        add_part(&sums, task, first, part);
    }
    @if(normed) add_squares(&sums, invocation.index);
    reduce(&sums, invocation);
    if invocation.index < COLS * ROWS / UNIT {
        let row = invocation.index / COLS * UNIT;
        let col = invocation.index % COLS;
        var outputs: array<f32, UNIT>;
        for (var i = 0u; i < UNIT; i++) {
            outputs[i] = total(row + i, col, invocation) * x_scale(col, invocation);
        }
        finish(task, first + row, col, &outputs);
    }
}

// A block of x, of 32 columns, has two quads of squares: one for every 4 columns.
@if(normed)
fn add_squares(sums: ptr<function, Sums>, index: u32) {
    for (var col = 0u; col < COLS; col++) {
        let first = params.first_square / 4u + col * params.blocks * 2u;
        for (var quad = index; quad < params.blocks * 2u; quad += WORKGROUP) {
            (*sums)[ROWS][col] += dot(x[first + quad], vec4f(1.0));
        }
    }
}

// What row `col` of x is to be multiplied with.
@if(normed)
fn x_scale(col: u32, invocation: Invocation) -> f32 {
    return root_scale(total(ROWS, col, invocation));
}

@else
fn x_scale(col: u32, invocation: Invocation) -> f32 {
    return 1.0;
}

@if(integer)
fn add_part(sums: ptr<function, Sums>, task: Task, first: u32, block: u32) {
    var codes: array<Parts, COLS>;
    var scales: array<BlockScale, COLS>;
    for (var col = 0u; col < COLS; col++) {
        let at = x_row(task, col) * params.blocks + block;
        codes[col] = parts_of(x_codes[2u * at], x_codes[2u * at + 1u]);
        scales[col] = x_scales[at];
    }
    for (var row = 0u; row < ROWS; row++) {
        let at = block_of(task, first + row, block);
        let w = Parts(weight_codes(at, 0u), weight_codes(at, 1u));
        let w_scale = weight_scale(at);
        for (var col = 0u; col < COLS; col++) {
            let dot = weight_dot(w_scale, dot_block(w, codes[col]), scales[col].sum);
            (*sums)[row][col] = fma(scales[col].scale, dot, (*sums)[row][col]);
        }
    }
}

// Word 9 is word 1 of block 2, which has its quads 1 and 5. Words past the end are those of the last block, times zero, so
// that neighbours that exchange scales stay together.
@elif(words)
fn add_part(sums: ptr<function, Sums>, task: Task, first: u32, word: u32) {
    let block = min(word / PARTS, params.blocks - 1u);
    let j = word % PARTS;
    var codes: array<vec2u, ROWS>;
    for (var row = 0u; row < ROWS; row++) {
        codes[row] = code_words(block_of(task, first + row, block), j);
    }
    let scales = scales_of(task, first, word);
    add_word(sums, task, block * QUADS + j, codes, scales);
}

// Quad 21 is quad 5 of block 2.
@else
fn add_part(sums: ptr<function, Sums>, task: Task, first: u32, quad: u32) {
    var quads: array<vec4f, COLS>;
    for (var col = 0u; col < COLS; col++) {
        quads[col] = x_quad(task, col, quad);
    }
    for (var row = 0u; row < ROWS; row++) {
        let at = block_of(task, first + row, quad / QUADS);
        let w = weight_quad(at, quad % QUADS, weight_scale(at));
        for (var col = 0u; col < COLS; col++) {
            (*sums)[row][col] = add_dot((*sums)[row][col], w, quads[col]);
        }
    }
}

// Products of a word of each row with quads `quad` and `quad` + PARTS of x. Either the weights or the activations wait in
// registers for the others: the fewer, with `many_cols` the weights.
@if(words && !many_cols)
fn add_word(
    sums: ptr<function, Sums>,
    task: Task,
    quad: u32,
    codes: array<vec2u, ROWS>,
    scales: array<WeightScale, ROWS>,
) {
    var dots: array<array<array<f32, DOTS>, COLS>, ROWS>;
    var x_sums: array<f32, COLS>;
    for (var half = 0u; half < 2u; half++) {
        var quads: array<vec4f, COLS>;
        for (var col = 0u; col < COLS; col++) {
            quads[col] = x_quad(task, col, quad + half * PARTS);
            x_sums[col] = add_dot(x_sums[col], vec4f(1.0), quads[col]);
        }
        for (var row = 0u; row < ROWS; row++) {
            let w = code_values(codes[row][half]);
            for (var col = 0u; col < COLS; col++) {
                dots[row][col][half % DOTS] = add_dot(dots[row][col][half % DOTS], w, quads[col]);
            }
        }
    }
    for (var row = 0u; row < ROWS; row++) {
        for (var col = 0u; col < COLS; col++) {
            let halves = vec2f(dots[row][col][0], select(0.0, dots[row][col][DOTS - 1u], DOTS == 2u));
            (*sums)[row][col] += weight_dot(scales[row], halves, x_sums[col]);
        }
    }
}

@if(words && many_cols)
fn add_word(
    sums: ptr<function, Sums>,
    task: Task,
    quad: u32,
    codes: array<vec2u, ROWS>,
    scales: array<WeightScale, ROWS>,
) {
    var weights: array<array<vec4f, 2>, ROWS>;
    for (var row = 0u; row < ROWS; row++) {
        weights[row] = array(code_values(codes[row].x), code_values(codes[row].y));
    }
    for (var col = 0u; col < COLS; col++) {
        let low = x_quad(task, col, quad);
        let high = x_quad(task, col, quad + PARTS);
        let x_sum = add_dot(add_dot(0.0, vec4f(1.0), low), vec4f(1.0), high);
        for (var row = 0u; row < ROWS; row++) {
            let dot = add_dot(0.0, weights[row][0], low);
            let together = vec2f(add_dot(dot, weights[row][1], high), 0.0);
            let apart = vec2f(dot, add_dot(0.0, weights[row][1], high));
            let dots = select(together, apart, DOTS == 2u);
            (*sums)[row][col] += weight_dot(scales[row], dots, x_sum);
        }
    }
}

// A quad of row `col` of x.
@if(!integer)
fn x_quad(task: Task, col: u32, quad: u32) -> vec4f {
    let at = x_row(task, col) * params.blocks * QUADS + quad;
    @if(halves) return half_quad(x[at]);
    @else return x[at];
}

// What the weights of a word's block have in common, of each row. Four neighbours have words of the same block: each takes every
// fourth row.
@if(words && subgroup)
fn scales_of(task: Task, first: u32, word: u32) -> array<WeightScale, ROWS> {
    var scales: array<WeightScale, ROWS>;
    for (var row = 0u; row < ROWS; row += 4u) {
        let own = scale_of(task, first + row + word % 4u, word);
        let four = array(quadBroadcast(own, 0u), quadBroadcast(own, 1u), quadBroadcast(own, 2u), quadBroadcast(own, 3u));
        for (var i = 0u; i < min(ROWS, 4u); i++) {
            scales[row + i] = four[i];
        }
    }
    return scales;
}

@if(words && !subgroup)
fn scales_of(task: Task, first: u32, word: u32) -> array<WeightScale, ROWS> {
    var scales: array<WeightScale, ROWS>;
    for (var row = 0u; row < ROWS; row++) {
        scales[row] = scale_of(task, first + row, word);
    }
    return scales;
}

@if(words)
fn scale_of(task: Task, row: u32, word: u32) -> WeightScale {
    let block = min(word / PARTS, params.blocks - 1u);
    return select(WeightScale(), weight_scale(block_of(task, row, block)), word / PARTS == block);
}

// In this order: compilers, DXC for one, may take sums apart, but not `fma`.
fn add_dot(sum: f32, w: vec4f, v: vec4f) -> f32 {
    return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
}

@if(subgroup)
fn reduce(sums: ptr<function, Sums>, invocation: Invocation) {
    for (var row = 0u; row < SUMS; row++) {
        for (var col = 0u; col < COLS; col++) {
            let sum = subgroupAdd((*sums)[row][col]);
            if invocation.lane == 0u {
                partial_sums[invocation.subgroup][row][col] = sum;
            }
        }
    }
    workgroupBarrier();
}

// Halves the number of partial sums in each round: 8 values take 3 rounds, 0+4 1+5 2+6 3+7, 0+2 1+3, 0+1.
@else
fn reduce(sums: ptr<function, Sums>, invocation: Invocation) {
    partial_sums[invocation.index] = *sums;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if invocation.index < half {
            for (var row = 0u; row < SUMS; row++) {
                for (var col = 0u; col < COLS; col++) {
                    partial_sums[invocation.index][row][col] += partial_sums[invocation.index + half][row][col];
                }
            }
        }
        workgroupBarrier();
    }
}

// A sum of all invocations, once `reduce` is done.
@if(subgroup)
fn total(row: u32, col: u32, invocation: Invocation) -> f32 {
    var total = 0.0;
    for (var i = 0u; i < invocation.subgroups; i++) {
        total += partial_sums[i][row][col];
    }
    return total;
}

@else
fn total(row: u32, col: u32, invocation: Invocation) -> f32 {
    return partial_sums[0][row][col];
}
