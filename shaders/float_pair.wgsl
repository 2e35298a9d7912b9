// Two neighbouring floats as buffers hold them: with `int64` one number, which drivers that load for one invocation after
// the other load as quickly as one float.
@if(int64) import package::quant::packed::two_words;

@if(int64) alias Pair = u64;
@else alias Pair = vec2f;

fn floats(pair: Pair) -> vec2f {
    @if(int64) return bitcast<vec2f>(two_words(pair));
    @else return pair;
}

fn pair(values: vec2f) -> Pair {
    @if(int64) return u64(bitcast<u32>(values.x)) | (u64(bitcast<u32>(values.y)) << 32u);
    @else return values;
}
