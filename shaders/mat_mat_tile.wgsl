// Which products a workgroup of the matrix-matrix kernels computes, and where it leaves them.
import package::bias::biased;
import package::generated::{MatmulParams, TILE_COLS, TILE_ROWS};

@group(0) @binding(2) var<uniform> params: MatmulParams;
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [rows of x, y_stride]
// [slots]: the number of rows of x is counts[slot].
@if(!experts) @group(0) @binding(5) var<storage, read> counts: array<u32>;
// [experts + 1]: rows offsets[e] to offsets[e + 1] - 1 of x and y are those of expert e.
@if(experts) @group(0) @binding(5) var<storage, read> offsets: array<u32>;

// A tile of y: rows of x from `row` on, as far as they lie before `end`, and rows of a matrix of the weight from `col` on.
struct Tile {
    row: u32,
    end: u32,
    col: u32,
    matrix: u32,
}

// Workgroup (3, 1, 2): fourth tile across, second tile down the rows of expert `params.slot` + 2.
@if(experts)
fn tile_of(workgroup: vec3u) -> Tile {
    let expert = params.slot + workgroup.z;
    let row = offsets[expert] + workgroup.y * TILE_ROWS;
    return Tile(row, offsets[expert + 1u], workgroup.x * TILE_COLS, workgroup.z);
}

@else
fn tile_of(workgroup: vec3u) -> Tile {
    return Tile(workgroup.y * TILE_ROWS, counts[params.slot], workgroup.x * TILE_COLS, 0u);
}

// Whether row and column `row` and `col` of the tile lie within y.
fn is_inside(tile: Tile, row: u32, col: u32) -> bool {
    return tile.row + row < tile.end && tile.col + col < params.rows;
}

// Where the product of row `row` and column `col` of the tile goes.
fn y_index(tile: Tile, row: u32, col: u32) -> u32 {
    return (tile.row + row) * params.y_stride + output_of(tile, col);
}

// The output that is column `col` of the tile.
fn output_of(tile: Tile, col: u32) -> u32 {
    return params.first_row + params.row_step * (tile.col + col);
}

// Leaves a product, before any bias. There are no rows and columns past the end.
fn write(tile: Tile, row: u32, col: u32, value: f32) {
    if is_inside(tile, row, col) {
        y[y_index(tile, row, col)] = biased(value, output_of(tile, col));
    }
}

// Number of a block in row `row` of the tile. Rows past the end repeat the last one; nobody writes their results.
fn x_block(tile: Tile, row: u32, block: u32) -> u32 {
    return min(tile.row + row, tile.end - 1u) * params.blocks + block;
}

// Number of a block in the weight, of the row that is column `col` of the tile. Those past the end repeat the last one.
fn weight_block(tile: Tile, col: u32, block: u32) -> u32 {
    return (tile.matrix * params.rows + min(tile.col + col, params.rows - 1u)) * params.blocks + block;
}
