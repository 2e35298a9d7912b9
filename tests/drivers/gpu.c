// Mesa's lavapipe, which says here that it is a GPU and no CPU, so that a program does with it what it does with GPUs. With
// MATRICES_16 in the environment it also says that it multiplies matrices of 16×16, as GPUs do: 8×8 by itself, it cuts larger
// ones into these, as VK_NV_cooperative_matrix2 wants it.
//
//   cc -shared -fPIC -DLAVAPIPE='"/path/to/libvulkan_lvp.so"' -o libvulkan_gpu.so gpu.c

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*Function)(void);

// VkPhysicalDeviceProperties, as far as it is of interest
typedef struct {
    uint32_t api_version, driver_version, vendor, device, device_type;
} Device;

// VkPhysicalDeviceProperties2
typedef struct {
    int32_t type;
    void *next;
    Device properties;
} Device2;

enum { INTEGRATED_GPU = 1, INCOMPATIBLE_DRIVER = -9 };

// VkCooperativeMatrixPropertiesKHR
typedef struct {
    int32_t type;
    void *next;
    uint32_t m, n, k;
    int32_t types[4];
    uint32_t saturating;
    int32_t scope;
} Matrix;

static void (*lavapipe_device)(void *device, Device *properties);
static void (*lavapipe_device2)(void *device, Device2 *properties);
static int32_t (*lavapipe_matrices)(void *device, uint32_t *count, Matrix *matrices);

static void *lavapipe(const char *name) {
    static void *library;
    if (!library)
        library = dlopen(LAVAPIPE, RTLD_NOW);
    return library ? dlsym(library, name) : NULL;
}

static void device(void *device, Device *properties) {
    lavapipe_device(device, properties);
    properties->device_type = INTEGRATED_GPU;
}

static void device2(void *device, Device2 *properties) {
    lavapipe_device2(device, properties);
    properties->properties.device_type = INTEGRATED_GPU;
}

static int32_t matrices(void *device, uint32_t *count, Matrix *matrices) {
    int32_t result = lavapipe_matrices(device, count, matrices);
    for (uint32_t i = 0; getenv("MATRICES_16") && matrices && i < *count; i++)
        matrices[i].m = matrices[i].n = matrices[i].k = 16;
    return result;
}

static Function found(const char *finder, void *instance, const char *name) {
    const struct {
        const char *name;
        Function ours, *lavapipe;
    } changed[] = {
        {"vkGetPhysicalDeviceProperties", (Function)device, (Function *)&lavapipe_device},
        {"vkGetPhysicalDeviceProperties2", (Function)device2, (Function *)&lavapipe_device2},
        {"vkGetPhysicalDeviceProperties2KHR", (Function)device2, (Function *)&lavapipe_device2},
        {"vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR", (Function)matrices, (Function *)&lavapipe_matrices},
    };
    Function function = ((Function(*)(void *, const char *))lavapipe(finder))(instance, name);
    for (size_t i = 0; function && i < sizeof changed / sizeof *changed; i++) {
        if (!strcmp(name, changed[i].name)) {
            *changed[i].lavapipe = function;
            return changed[i].ours;
        }
    }
    return function;
}

// What the loader asks a driver for.

Function vk_icdGetInstanceProcAddr(void *instance, const char *name) {
    return found("vk_icdGetInstanceProcAddr", instance, name);
}

Function vk_icdGetPhysicalDeviceProcAddr(void *instance, const char *name) {
    return found("vk_icdGetPhysicalDeviceProcAddr", instance, name);
}

int32_t vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    int32_t (*negotiate)(uint32_t *) = lavapipe("vk_icdNegotiateLoaderICDInterfaceVersion");
    return negotiate ? negotiate(version) : INCOMPATIBLE_DRIVER;
}
