// Mesa's lavapipe, which says here that it multiplies matrices of 16×16, as GPUs do. It says 8×8 by itself, but cuts larger
// ones into these, as VK_NV_cooperative_matrix2 wants it.
//
//   cc -shared -fPIC -DLAVAPIPE='"/path/to/libvulkan_lvp.so"' -o libvulkan_matrices.so matrices.c

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

typedef void (*Function)(void);

// VkCooperativeMatrixPropertiesKHR
typedef struct {
    int32_t type;
    void *next;
    uint32_t m, n, k;
    int32_t types[4];
    uint32_t saturating;
    int32_t scope;
} Properties;

static int32_t (*lavapipe_properties)(void *device, uint32_t *count, Properties *properties);

static void *lavapipe(const char *name) {
    static void *library;
    if (!library)
        library = dlopen(LAVAPIPE, RTLD_NOW);
    return dlsym(library, name);
}

static int32_t properties_of_16(void *device, uint32_t *count, Properties *properties) {
    int32_t result = lavapipe_properties(device, count, properties);
    for (uint32_t i = 0; properties && i < *count; i++)
        properties[i].m = properties[i].n = properties[i].k = 16;
    return result;
}

static Function found(const char *finder, void *instance, const char *name) {
    Function function = ((Function(*)(void *, const char *))lavapipe(finder))(instance, name);
    if (!function || strcmp(name, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"))
        return function;
    lavapipe_properties = (void *)function;
    return (Function)properties_of_16;
}

// What the loader asks a driver for.

Function vk_icdGetInstanceProcAddr(void *instance, const char *name) {
    return found("vk_icdGetInstanceProcAddr", instance, name);
}

Function vk_icdGetPhysicalDeviceProcAddr(void *instance, const char *name) {
    return found("vk_icdGetPhysicalDeviceProcAddr", instance, name);
}

int32_t vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    return ((int32_t(*)(uint32_t *))lavapipe("vk_icdNegotiateLoaderICDInterfaceVersion"))(version);
}
