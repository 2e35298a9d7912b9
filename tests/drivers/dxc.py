"""Compiles HLSL with Microsoft's shader compiler, with the arguments that wgpu gives it.

    python3 dxc.py LIBRARY FILE...

LIBRARY is libdxcompiler for Linux. The shader model stands in a file's name: `NAME.6_2.hlsl`.
"""

import ctypes
import struct
import sys
import uuid

UTF8 = 65001
OBJECT, ERRORS = 1, 2  # DXC_OUT_KIND
COMPILER = "73e22d93-e6ce-47f3-b5bf-f0664f39c1b0"  # CLSID_DxcCompiler
ICOMPILER3 = "228b4687-5a6a-4730-900c-9702b2203f54"  # IDxcCompiler3
IRESULT = "58346cda-dde7-4497-9461-6f87af5e0659"  # IDxcResult
IBLOB = "8ba5fb08-5195-40e2-ac58-0d989c3a0102"  # IDxcBlob


def guid(text):
    return uuid.UUID(text).bytes_le


def method(this, index, result, *arguments):
    """The method number `index` of a COM object, counted as on Windows: its first three are those of
    IUnknown, which has two more on Linux, the destructors."""
    table = ctypes.cast(this, ctypes.POINTER(ctypes.c_void_p))[0]
    slot = index if index < 3 else index + 2
    address = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[slot]
    return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(address)


def release(this):
    method(this, 2, ctypes.c_uint32)(this)


def output(result, kind):
    """An output of a compilation, as bytes."""
    blob = ctypes.c_void_p()
    pointer = ctypes.POINTER(ctypes.c_void_p)
    get = method(result, 7, ctypes.c_int32, ctypes.c_uint32, ctypes.c_char_p, pointer, pointer)
    get(result, kind, guid(IBLOB), ctypes.byref(blob), None)
    if not blob:
        return b""
    address = method(blob, 3, ctypes.c_void_p)(blob)
    size = method(blob, 4, ctypes.c_size_t)(blob)
    contents = ctypes.string_at(address, size)
    release(blob)
    return contents


def compile_file(compiler, path):
    """The first errors of the compiler, or nothing."""
    model = path.split(".")[-2]
    with open(path, "rb") as file:
        source = file.read()
    arguments = [path, "-E", "main", "-T", f"cs_{model}", "-HV", "2018", "-no-warnings", "-Ges", "-Vd"]
    if model >= "6_2":
        arguments.append("-enable-16bit-types")
    pointers = (ctypes.c_wchar_p * len(arguments))(*arguments)
    text = ctypes.create_string_buffer(source, len(source))
    # struct DxcBuffer { const void *Ptr; size_t Size; UINT Encoding; }
    buffer = struct.pack("@PNI", ctypes.addressof(text), len(source), UTF8)
    result = ctypes.c_void_p()
    call = method(
        compiler, 3, ctypes.c_int32, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p,
        ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p),
    )
    code = call(compiler, buffer, pointers, len(arguments), None, guid(IRESULT), ctypes.byref(result))
    if code < 0:
        return [f"the compiler returned {code & 0xffffffff:08x}"]
    status = ctypes.c_int32()
    method(result, 3, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32))(result, ctypes.byref(status))
    errors = []
    if status.value < 0:
        lines = output(result, ERRORS).decode(errors="replace").splitlines()
        errors = [line for line in lines if "error" in line][:4] or lines[:4] or ["no message"]
    elif not output(result, OBJECT).startswith(b"DXBC"):
        errors = ["no DXIL came out"]
    release(result)
    return errors


def main():
    library, *paths = sys.argv[1:]
    create = ctypes.CDLL(library).DxcCreateInstance
    create.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]
    compiler = ctypes.c_void_p()
    if create(guid(COMPILER), guid(ICOMPILER3), ctypes.byref(compiler)) < 0:
        sys.exit("DxcCreateInstance failed")
    failed = 0
    for path in paths:
        errors = compile_file(compiler, path)
        failed += bool(errors)
        for error in errors:
            print(f"{path}: {error}")
    print(f"{len(paths) - failed} passed, {failed} failed")
    sys.exit(failed > 0 or not paths)


main()
