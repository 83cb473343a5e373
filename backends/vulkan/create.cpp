// Creates a device for programs that have none: checks every physical device, records why it is not suitable, and takes
// the first that is.
#include "impl.hpp"

#include "log.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/sysmacros.h>

namespace dmaflow::vulkan {

namespace {

constexpr const char* validation_layer = "VK_LAYER_KHRONOS_validation";

VKAPI_ATTR VkBool32 VKAPI_CALL say(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                                   const VkDebugUtilsMessengerCallbackDataEXT* data, void*) {
  detail::log(LogLevel::warning, "Vulkan: %s: %s", data->pMessageIdName == nullptr ? "" : data->pMessageIdName,
              data->pMessage == nullptr ? "" : data->pMessage);
  return VK_FALSE;
}

constexpr VkDebugUtilsMessengerCreateInfoEXT messenger_info{
    .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
    .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
    .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_GENERAL_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                   VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
    .pfnUserCallback = say};

/// An instance that is destroyed unless it is taken over.
struct Instance {
  Functions vk;
  PFN_vkGetInstanceProcAddr get = nullptr;
  VkInstance handle = VK_NULL_HANDLE;
  VkDebugUtilsMessengerEXT messenger = VK_NULL_HANDLE;

  Instance() = default;
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;
  ~Instance();
  [[nodiscard]] Result<void> create(const CreateOptions& options);
  void listen() noexcept;
};

/// A physical device and what is needed to create a device on it.
struct Found {
  VkPhysicalDevice handle = VK_NULL_HANDLE;
  PhysicalDevice seen;
  std::uint32_t queue_family = 0;
  std::vector<const char*> extensions;
  bool storage_write_without_format = false;
  bool sampler_ycbcr = false;
  bool timelines = false;
};

template <typename Function>
Function function_of(PFN_vkGetInstanceProcAddr get, VkInstance instance, const char* name) noexcept {
  return reinterpret_cast<Function>(get(instance, name));  // NOLINT(*-reinterpret-cast): how Vulkan hands them out
}

Result<void> Instance::create(const CreateOptions& options) {
  get = options.get_instance_proc_addr;
  if (get == nullptr) {
    auto loaded = load_library();
    if (!loaded) return std::unexpected(loaded.error());
    get = *loaded;
  }
  if (auto loaded = vk.load_global(get); !loaded) return loaded;
  std::uint32_t version = VK_API_VERSION_1_0;
  vk.EnumerateInstanceVersion(&version);
  if (version < VK_API_VERSION_1_1) {
    return std::unexpected(Error::vulkan(VK_ERROR_INCOMPATIBLE_DRIVER, "vkEnumerateInstanceVersion")
                               .detail("the loader knows Vulkan 1.0 only; 1.1 is needed"));
  }
  const VkApplicationInfo application{.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                      .pEngineName = "dmaflow",
                                      .apiVersion = std::min<std::uint32_t>(version, VK_API_VERSION_1_2)};
  const VkValidationFeatureEnableEXT synchronisation = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
  const VkValidationFeaturesEXT features{.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
                                         .pNext = &messenger_info,
                                         .enabledValidationFeatureCount = 1,
                                         .pEnabledValidationFeatures = &synchronisation};
  const char* const debug_utils = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
  VkInstanceCreateInfo info{.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
  if (options.validation) {
    info.pNext = &features;
    info.enabledLayerCount = 1;
    info.ppEnabledLayerNames = &validation_layer;
    info.enabledExtensionCount = 1;
    info.ppEnabledExtensionNames = &debug_utils;
  }
  const VkResult result = vk.CreateInstance(&info, nullptr, &handle);
  if (result != VK_SUCCESS) {
    Error error = Error::vulkan(result, "vkCreateInstance");
    if (result == VK_ERROR_LAYER_NOT_PRESENT) error.detail("%s is not installed", validation_layer);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER)
      error.detail("no Vulkan driver is installed (Debian: mesa-vulkan-drivers)");
    return std::unexpected(error);
  }
  if (options.validation) listen();
  return vk.load_instance(get, handle);
}

void Instance::listen() noexcept {
  const auto create = function_of<PFN_vkCreateDebugUtilsMessengerEXT>(get, handle, "vkCreateDebugUtilsMessengerEXT");
  if (create == nullptr || create(handle, &messenger_info, nullptr, &messenger) != VK_SUCCESS) {
    messenger = VK_NULL_HANDLE;
  }
}

Instance::~Instance() {
  if (handle == VK_NULL_HANDLE) return;
  destroy_messenger(get, handle, messenger);
  if (vk.DestroyInstance != nullptr) vk.DestroyInstance(handle, nullptr);
}

bool contains(std::string_view text, std::string_view part) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  };
  return part.empty() || !std::ranges::search(text, part, same).empty();
}

/// Whether a path is one of the device's nodes, directly or through a link such as those in /dev/dri/by-path.
bool is_node(const std::string& path, const VkPhysicalDeviceDrmPropertiesEXT& drm) {
  const int fd = sys::open(path.c_str(), O_PATH);
  if (fd < 0) return false;
  const Fd owned = Fd::adopt(fd);
  struct stat status{};
  if (sys::fstat(fd, &status) < 0 || !S_ISCHR(status.st_mode)) return false;
  const auto is = [&](VkBool32 there, std::int64_t major_number, std::int64_t minor_number) {
    return there == VK_TRUE && major(status.st_rdev) == major_number && minor(status.st_rdev) == minor_number;
  };
  return is(drm.hasRender, drm.renderMajor, drm.renderMinor) || is(drm.hasPrimary, drm.primaryMajor, drm.primaryMinor);
}

Error refuse(const Found& found, const char* operation) { return Error::os(ENODEV, operation, found.seen.name); }

/// A queue family with compute, preferably with graphics too; nullopt if there is none.
std::optional<std::uint32_t> queue_family_of(const Functions& vk, VkPhysicalDevice device) {
  std::uint32_t count = 0;
  vk.GetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  vk.GetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  for (const VkQueueFlags wanted :
       {VkQueueFlags{VK_QUEUE_COMPUTE_BIT | VK_QUEUE_GRAPHICS_BIT}, VkQueueFlags{VK_QUEUE_COMPUTE_BIT}}) {
    for (std::uint32_t i = 0; i < count; ++i) {
      if ((families[i].queueFlags & wanted) == wanted && families[i].queueCount > 0) return i;
    }
  }
  return std::nullopt;
}

/// Collects the required and optional extensions that the driver has; a missing required one becomes the refusal.
void look_at_extensions(const Functions& vk, Found& found) {
  std::uint32_t count = 0;
  vk.EnumerateDeviceExtensionProperties(found.handle, nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> there(count);
  vk.EnumerateDeviceExtensionProperties(found.handle, nullptr, &count, there.data());
  const auto has = [&](const char* name) {
    return std::ranges::any_of(there, [&](const auto& one) { return std::strcmp(one.extensionName, name) == 0; });
  };
  std::string missing;
  for (const char* name : required_extensions()) {
    if (has(name)) found.extensions.push_back(name);
    if (!has(name)) missing.append(missing.empty() ? "" : ", ").append(name);
  }
  for (const char* name : optional_extensions()) {
    if (has(name)) found.extensions.push_back(name);
  }
  if (!missing.empty()) {
    found.seen.refusal =
        Error::vulkan(VK_ERROR_EXTENSION_NOT_PRESENT, "vkEnumerateDeviceExtensionProperties", found.seen.name)
            .detail("the driver lacks %s", missing.c_str());
  }
}

void look_at_features(const Functions& vk, Found& found) {
  const bool may_have_timelines = std::ranges::any_of(found.extensions, [](const char* name) {
    return std::strcmp(name, VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME) == 0;
  });
  VkPhysicalDeviceTimelineSemaphoreFeatures timelines{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES};
  VkPhysicalDeviceSamplerYcbcrConversionFeatures ycbcr{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SAMPLER_YCBCR_CONVERSION_FEATURES,
      .pNext = may_have_timelines ? &timelines : nullptr};
  VkPhysicalDeviceFeatures2 features{.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &ycbcr};
  vk.GetPhysicalDeviceFeatures2(found.handle, &features);
  found.storage_write_without_format = features.features.shaderStorageImageWriteWithoutFormat == VK_TRUE;
  found.sampler_ycbcr = ycbcr.samplerYcbcrConversion == VK_TRUE;
  found.timelines = may_have_timelines && timelines.timelineSemaphore == VK_TRUE;
}

Found look_at(const Functions& vk, VkPhysicalDevice handle, const CreateOptions& options) {
  Found found{.handle = handle};
  VkPhysicalDeviceDrmPropertiesEXT drm{.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRM_PROPERTIES_EXT};
  VkPhysicalDeviceDriverProperties driver{.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES, .pNext = &drm};
  VkPhysicalDeviceProperties2 properties{.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &driver};
  vk.GetPhysicalDeviceProperties2(handle, &properties);  // fields that the driver does not know stay zero
  found.seen = {.name = properties.properties.deviceName,
                .driver = driver.driverName,
                .node = drm_node(drm),
                .is_software = properties.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU};
  if (properties.properties.apiVersion < VK_API_VERSION_1_1) {
    found.seen.refusal =
        refuse(found, "vkGetPhysicalDeviceProperties2").detail("it has Vulkan 1.0 only; 1.1 is needed");
    return found;
  }
  look_at_extensions(vk, found);
  look_at_features(vk, found);
  const auto family = queue_family_of(vk, handle);
  found.queue_family = family.value_or(0);
  const auto not_wanted = [&] { return refuse(found, "vulkan::Device::create"); };
  if (!family) found.seen.refusal = not_wanted().detail("it has no compute queue");
  if (!contains(found.seen.name, options.name)) {
    found.seen.refusal = not_wanted().detail("its name has no \"%s\"", options.name.c_str());
  }
  if (!options.node.empty() && !is_node(options.node, drm)) {
    found.seen.refusal =
        found.seen.node.empty()
            ? not_wanted().detail("it does not say which DRM node it has; wanted is %s", options.node.c_str())
            : not_wanted().detail("its node is %s; wanted is %s", found.seen.node.c_str(), options.node.c_str());
  }
  if (found.seen.is_software && !options.allow_software) found.seen.refusal = not_wanted().detail("it is software");
  return found;
}

Result<std::vector<Found>> look_at_all(const Instance& instance, const CreateOptions& options) {
  std::uint32_t count = 0;
  VkResult result = instance.vk.EnumeratePhysicalDevices(instance.handle, &count, nullptr);
  std::vector<VkPhysicalDevice> handles(count);
  if (result >= 0) result = instance.vk.EnumeratePhysicalDevices(instance.handle, &count, handles.data());
  if (result < 0) return std::unexpected(Error::vulkan(result, "vkEnumeratePhysicalDevices"));
  handles.resize(std::min<std::size_t>(count, handles.size()));
  std::vector<Found> all;
  for (VkPhysicalDevice handle : handles) all.push_back(look_at(instance.vk, handle, options));
  std::ranges::stable_sort(all, {}, [](const Found& one) { return one.seen.is_software; });
  return all;
}

Error none_fits(const std::vector<Found>& all) {
  if (all.empty()) {
    return Error::os(ENOENT, "vkEnumeratePhysicalDevices")
        .detail("Vulkan knows no device on this machine (Debian: mesa-vulkan-drivers has drivers, software included)");
  }
  if (all.size() == 1) return *all.front().seen.refusal;
  std::string text;
  for (const Found& one : all) {
    text.append(text.empty() ? "" : "; ").append(one.seen.name).append(": ");
    text.append(one.seen.refusal->detail());
  }
  return Error::os(ENODEV, "vulkan::Device::create").detail("%s", text.c_str());
}

Result<VkDevice> make_device(const Functions& vk, const Found& found) {
  const float priority = 1.0F;
  const VkDeviceQueueCreateInfo queue{.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                      .queueFamilyIndex = found.queue_family,
                                      .queueCount = 1,
                                      .pQueuePriorities = &priority};
  VkPhysicalDeviceTimelineSemaphoreFeatures timelines{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES, .timelineSemaphore = VK_TRUE};
  VkPhysicalDeviceSamplerYcbcrConversionFeatures ycbcr{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SAMPLER_YCBCR_CONVERSION_FEATURES,
      .pNext = found.timelines ? &timelines : nullptr,
      .samplerYcbcrConversion = found.sampler_ycbcr ? VK_TRUE : VK_FALSE};
  VkPhysicalDeviceFeatures features{};
  features.shaderStorageImageWriteWithoutFormat = found.storage_write_without_format ? VK_TRUE : VK_FALSE;
  const VkDeviceCreateInfo info{.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                .pNext = &ycbcr,
                                .queueCreateInfoCount = 1,
                                .pQueueCreateInfos = &queue,
                                .enabledExtensionCount = static_cast<std::uint32_t>(found.extensions.size()),
                                .ppEnabledExtensionNames = found.extensions.data(),
                                .pEnabledFeatures = &features};
  VkDevice device = VK_NULL_HANDLE;
  const VkResult result = vk.CreateDevice(found.handle, &info, nullptr, &device);
  if (result != VK_SUCCESS) return std::unexpected(Error::vulkan(result, "vkCreateDevice", found.seen.name));
  return device;
}

}  // namespace

void destroy_messenger(PFN_vkGetInstanceProcAddr get, VkInstance instance,
                       VkDebugUtilsMessengerEXT messenger) noexcept {
  if (messenger == VK_NULL_HANDLE) return;
  const auto destroy =
      function_of<PFN_vkDestroyDebugUtilsMessengerEXT>(get, instance, "vkDestroyDebugUtilsMessengerEXT");
  if (destroy != nullptr) destroy(instance, messenger, nullptr);
}

Result<std::vector<PhysicalDevice>> list(const CreateOptions& options) {
  Instance instance;
  if (auto created = instance.create(options); !created) return std::unexpected(created.error());
  auto all = look_at_all(instance, options);
  if (!all) return std::unexpected(all.error());
  std::vector<PhysicalDevice> seen;
  for (Found& one : *all) seen.push_back(std::move(one.seen));
  return seen;
}

Result<std::unique_ptr<Device>> Device::create(const CreateOptions& options) {
  Instance instance;
  if (auto created = instance.create(options); !created) return std::unexpected(created.error());
  auto all = look_at_all(instance, options);
  if (!all) return std::unexpected(all.error());
  const auto found = std::ranges::find_if(*all, [](const Found& one) { return !one.seen.refusal; });
  if (found == all->end()) return std::unexpected(none_fits(*all));
  auto handle = make_device(instance.vk, *found);
  if (!handle) return std::unexpected(handle.error());
  auto impl = std::make_unique<Impl>();
  impl->owns_device = true;  // from here on, impl destroys the instance and the device
  impl->instance = instance.handle;
  impl->get_instance_proc_addr = instance.get;
  impl->validation = std::exchange(instance.messenger, VK_NULL_HANDLE);
  impl->owned_device = *handle;
  instance.handle = VK_NULL_HANDLE;
  if (auto prepared = impl->prepare({.instance = impl->instance,
                                     .physical_device = found->handle,
                                     .device = *handle,
                                     .queue_family = found->queue_family,
                                     .queue_index = 0,
                                     .get_instance_proc_addr = instance.get,
                                     .extensions = found->extensions,
                                     .storage_write_without_format = found->storage_write_without_format,
                                     .sampler_ycbcr = found->sampler_ycbcr,
                                     .timeline_semaphores = found->timelines});
      !prepared) {
    return std::unexpected(prepared.error());
  }
  return std::unique_ptr<Device>(new Device(std::move(impl)));  // private constructor
}

}  // namespace dmaflow::vulkan
