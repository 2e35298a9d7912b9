// Dawn, Chromium's WebGPU, as a second implementation under the shaders.
//
//   node dawn.mjs FOLDER compile FILE.wgsl...   compiles each to a pipeline
//   node dawn.mjs FOLDER serve                  runs dispatches told on standard input, and answers on
//                                               descriptor 3 (see dawn.rs)
//
// FOLDER is where npm put the package `webgpu`. The device has WebGPU's default limits, but for a storage buffer more in a
// kernel, where it has so many.
import { createWriteStream, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, command, ...files] = process.argv.slice(2);
const { create, globals } = await import(pathToFileURL(createRequire(join(folder, 'x.js')).resolve('webgpu')));
Object.assign(globalThis, globals);

globalThis.gpu = create([]); // collected as garbage, it would take the process with it
const adapter = await gpu.requestAdapter({});
if (!adapter) throw new Error('Dawn found no adapter');
const features = ['shader-f16', 'subgroups'].filter(feature => adapter.features.has(feature));
const maxStorageBuffersPerShaderStage = Math.min(9, adapter.limits.maxStorageBuffersPerShaderStage);
const device = await adapter.requestDevice({
  requiredFeatures: features,
  requiredLimits: { maxStorageBuffersPerShaderStage },
});

// naga takes subgroup operations for granted, WebGPU wants them named.
const portable = wgsl => (/\bsubgroup[A-Z_]|\bnum_subgroups\b/.test(wgsl) ? `enable subgroups;\n${wgsl}` : wgsl);

const needed = wgsl => [
  [/^enable f16;/m, 'shader-f16'],
  [/^enable subgroups;/m, 'subgroups'],
].flatMap(([pattern, feature]) => (pattern.test(wgsl) && !features.includes(feature) ? [feature] : []));

async function moduleOf(wgsl) {
  const module = device.createShaderModule({ code: wgsl });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter(message => message.type === 'error');
  if (errors.length) throw new Error(errors.map(error => `${error.lineNum}:${error.linePos} ${error.message}`).join('; '));
  return module;
}

async function compile() {
  const count = { passed: 0, failed: 0, skipped: 0 };
  for (const file of files) {
    const wgsl = portable(readFileSync(file, 'utf8'));
    if (needed(wgsl).length) {
      count.skipped++;
      continue;
    }
    try {
      const module = await moduleOf(wgsl);
      await device.createComputePipelineAsync({ layout: 'auto', compute: { module } });
      count.passed++;
    } catch (error) {
      console.log(`${file}: ${error.message}`);
      count.failed++;
    }
  }
  console.log(`${adapter.info.description}: ${features.join(', ') || 'no optional features'}`);
  console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} need features that it lacks`);
  return count.failed || !count.passed ? 1 : 0;
}

const BINDING_TYPES = { Uniform: 'uniform', Read: 'read-only-storage', ReadWrite: 'storage' };
const kernels = new Map(); // by the WGSL text

async function kernelOf(wgsl, bindings) {
  if (!kernels.has(wgsl)) {
    const entries = bindings.map(({ number, kind }) => ({
      binding: number,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: BINDING_TYPES[kind] },
    }));
    const layout = device.createBindGroupLayout({ entries });
    const module = await moduleOf(portable(wgsl));
    const pipeline = await device.createComputePipelineAsync({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module },
    });
    kernels.set(wgsl, { layout, pipeline });
  }
  return kernels.get(wgsl);
}

// Runs the actions of a request on buffers with the given contents, and returns all contents afterwards.
async function run({ buffers, actions }, contents) {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const memory = buffers.map(size => device.createBuffer({ size, usage }));
  let at = 0;
  memory.forEach(buffer => {
    device.queue.writeBuffer(buffer, 0, contents, at, buffer.size);
    at += buffer.size;
  });
  const encoder = device.createCommandEncoder();
  for (const { dispatch, copy } of actions) {
    if (copy) {
      encoder.copyBufferToBuffer(memory[copy.from.buffer], copy.from.offset, memory[copy.to.buffer], copy.to.offset, copy.from.size);
    } else if (!dispatch.workgroups.includes(0)) {
      const { layout, pipeline } = await kernelOf(dispatch.wgsl, dispatch.bindings);
      const entries = dispatch.bindings.map(({ number, part }) => ({
        binding: number,
        resource: { buffer: memory[part.buffer], offset: part.offset, size: part.size },
      }));
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, device.createBindGroup({ layout, entries }));
      pass.dispatchWorkgroups(...dispatch.workgroups);
      pass.end();
    }
  }
  const staging = device.createBuffer({ size: at, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  at = 0;
  memory.forEach(buffer => {
    encoder.copyBufferToBuffer(buffer, 0, staging, at, buffer.size);
    at += buffer.size;
  });
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const result = Buffer.from(staging.getMappedRange().slice(0));
  [...memory, staging].forEach(buffer => buffer.destroy());
  return result;
}

// Not the standard output, where Dawn prints warnings.
const answers = command === 'serve' && createWriteStream(null, { fd: 3 });

// A message, both ways: its length and that of the contents as 32-bit numbers, JSON, contents.
function answer(message, contents = Buffer.alloc(0)) {
  const json = Buffer.from(JSON.stringify(message));
  const head = Buffer.alloc(8);
  head.writeUInt32LE(json.length, 0);
  head.writeUInt32LE(contents.length, 4);
  return new Promise(resolve => answers.write(Buffer.concat([head, json, contents]), resolve));
}

async function serve() {
  await answer({ name: adapter.info.description, features });
  let bytes = Buffer.alloc(0);
  let chunks = [];
  let available = 0;
  let wanted = 8;
  for await (const chunk of process.stdin) {
    chunks.push(chunk);
    available += chunk.length;
    while (available >= wanted) {
      bytes = Buffer.concat(chunks);
      chunks = [bytes];
      const [json, contents] = [bytes.readUInt32LE(0), bytes.readUInt32LE(4)];
      wanted = 8 + json + contents;
      if (available < wanted) break;
      const request = JSON.parse(bytes.toString('utf8', 8, 8 + json));
      device.pushErrorScope('out-of-memory');
      device.pushErrorScope('validation');
      let message = {};
      let result;
      try {
        result = await run(request, bytes.subarray(8 + json, wanted));
      } catch (error) {
        message = { error: error.message };
      }
      const errors = [await device.popErrorScope(), await device.popErrorScope()].filter(Boolean);
      if (errors.length) message = { error: errors[0].message };
      await answer(message, message.error ? undefined : result);
      bytes = bytes.subarray(wanted);
      chunks = [bytes];
      available = bytes.length;
      wanted = 8;
    }
  }
  return 0;
}

process.exit(await { compile, serve }[command]());
