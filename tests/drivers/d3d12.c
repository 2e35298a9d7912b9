// Direct3D 12 on Vulkan as a library for Wine: d3d12.sh builds it with vkd3d from Wine's source. Wine's own leaves out DXIL, which
// DXC compiles to. It takes the first Vulkan device, whatever adapter is asked for.
#define INITGUID
#include <windows.h>
#include <vulkan/vulkan_core.h>
#include <vkd3d.h>

static HRESULT signal_event(HANDLE event)
{
    return SetEvent(event) ? S_OK : E_FAIL;
}

HRESULT WINAPI D3D12CreateDevice(IUnknown *adapter, D3D_FEATURE_LEVEL minimum, REFIID iid, void **device)
{
    const struct vkd3d_instance_create_info instance = {
        .type = VKD3D_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .pfn_signal_event = signal_event,
        .wchar_size = sizeof(WCHAR),
    };
    const struct vkd3d_device_create_info info = {
        .type = VKD3D_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .minimum_feature_level = minimum,
        .instance_create_info = &instance,
    };
    return vkd3d_create_device(&info, iid, device);
}

HRESULT WINAPI D3D12SerializeRootSignature(const D3D12_ROOT_SIGNATURE_DESC *root_signature, D3D_ROOT_SIGNATURE_VERSION version,
    ID3DBlob **blob, ID3DBlob **error)
{
    return vkd3d_serialize_root_signature(root_signature, version, blob, error);
}
