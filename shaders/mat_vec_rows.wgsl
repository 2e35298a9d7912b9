// y = x · weightᵀ for COLS rows of x, without workgroup memory and its barriers: every invocation computes ROWS
// neighbouring outputs of each by itself. With `integer`, both factors are integer codes of a block, whose products
// are summed exactly before they are scaled.
//
// All invocations need the same values of x. To a driver that loads for one invocation after the other, a load of
// four values costs no more than a load of one value four times: each invocation loads another one, and the subgroup
// exchanges them.
//
// Every output is summed in the same order whatever COLS and ROWS are, in explicit `fma`, so that a
// row of x gives the same bits whatever rows it is batched with.
//
// With `normed`, rows of x are still to be divided by the root of their mean square: see epilogue/rms_norm.
import package::epilogue::{UNIT, finish};
import package::generated::{COLS, QUADS, ROWS, WORKGROUP};
import package::mat_vec_task::{Task, block_of, first_task, params, root_scale, x_row};
import package::quant::activations::{BlockScale, dot16};
import package::reduce::{Invocation, workgroup_sum};
import package::weight::{WeightScale, weight_codes, weight_dot, weight_quad, weight_scale};

@if(integer) @group(0) @binding(3) var<storage, read> x_codes: array<u32>;         // [rows, blocks, 8]
@if(integer) @group(0) @binding(5) var<storage, read> x_scales: array<BlockScale>; // [rows, blocks]
@else @group(0) @binding(3) var<storage, read> x: array<f32>;                      // [rows, blocks * QUADS, 4], then squares if normed

// Nested, so that every index is a loop's own counter: drivers unroll such loops and keep the sums in registers.
alias Sums = array<array<f32, COLS>, ROWS>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(global_invocation_id) id: vec3u,
    invocation: Invocation,
    @builtin(subgroup_size) _size: u32, // see Invocation
) {
    // Not that of the invocation: the loop over an expert's rows has to be the same for all that exchange values.
    var task = first_task(workgroup.y);
    @if(experts)
    for (; task.first < task.end; task.first += COLS) {
        multiply(task, id.x * ROWS, invocation);
    }
    @if(!experts)
    multiply(task, id.x * ROWS, invocation);
}

fn multiply(task: Task, first: u32, invocation: Invocation) {
    var sums: Sums;
    for (var block = 0u; block < params.blocks; block++) {
        add_block(&sums, task, first, block, invocation.lane % 4u);
    }
    for (var col = 0u; col < COLS; col++) {
        let scale = x_scale(col, invocation);
        for (var unit = 0u; unit < ROWS / UNIT; unit++) {
            var outputs: array<f32, UNIT>;
            for (var i = 0u; i < UNIT; i++) {
                outputs[i] = sums[unit * UNIT + i][col] * scale;
            }
            finish(task, first + unit * UNIT, col, &outputs);
        }
    }
}

// What row `col` of x is to be multiplied with.
@if(normed)
fn x_scale(col: u32, invocation: Invocation) -> f32 {
    // A block of x, of 32 columns, has 8 squares: one for every 4 columns.
    let squares = params.blocks * 8u;
    var sum = 0.0;
    for (var i = invocation.index; i < squares; i += WORKGROUP) {
        sum += x[params.first_square + col * squares + i];
    }
    return root_scale(workgroup_sum(sum, invocation));
}

@else
fn x_scale(col: u32, invocation: Invocation) -> f32 {
    return 1.0;
}

@if(integer)
fn add_block(sums: ptr<function, Sums>, task: Task, first: u32, block: u32, quarter: u32) {
    var low: array<vec4u, COLS>; // the first half of a block
    var high: array<vec4u, COLS>;
    var scales: array<BlockScale, COLS>;
    for (var col = 0u; col < COLS; col++) {
        let at = x_row(task, col) * params.blocks + block;
        low[col] = quarters(x_codes[8u * at + quarter]);
        high[col] = quarters(x_codes[8u * at + 4u + quarter]);
        scales[col] = x_scales[at];
    }
    for (var row = 0u; row < ROWS; row++) {
        let at = block_of(task, first + row, block);
        let w_low = weight_codes(at, 0u);
        let w_high = weight_codes(at, 1u);
        let w_scale = weight_scale(at);
        for (var col = 0u; col < COLS; col++) {
            let dot = weight_dot(w_scale, dot16(w_low, low[col]), dot16(w_high, high[col]), scales[col].sum);
            (*sums)[row][col] = fma(scales[col].scale, dot, (*sums)[row][col]);
        }
    }
}

@else
fn add_block(sums: ptr<function, Sums>, task: Task, first: u32, block: u32, quarter: u32) {
    var scales: array<WeightScale, ROWS>;
    for (var row = 0u; row < ROWS; row++) {
        scales[row] = weight_scale(block_of(task, first + row, block));
    }
    for (var j = 0u; j < QUADS; j++) {
        var quads: array<vec4f, COLS>;
        for (var col = 0u; col < COLS; col++) {
            let at = (x_row(task, col) * params.blocks + block) * QUADS + j;
            quads[col] = bitcast<vec4f>(quarters(bitcast<u32>(x[4u * at + quarter])));
        }
        for (var row = 0u; row < ROWS; row++) {
            let w = weight_quad(block_of(task, first + row, block), j, scales[row]);
            for (var col = 0u; col < COLS; col++) {
                let v = quads[col];
                (*sums)[row][col] =
                    fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, (*sums)[row][col]))));
            }
        }
    }
}

// What the first four invocations of the subgroup, which has no fewer, hold.
fn quarters(value: u32) -> vec4u {
    return vec4u(
        subgroupBroadcast(value, 0u), subgroupBroadcast(value, 1u),
        subgroupBroadcast(value, 2u), subgroupBroadcast(value, 3u),
    );
}
