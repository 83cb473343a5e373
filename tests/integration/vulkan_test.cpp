// Sharing with the GPU: creating and adopting devices, their capabilities, imports of every kind of memory, exports and
// fences. Whatever is not possible returns one clear error and leaks nothing.
#include "fence_support.hpp"
#include "vulkan_support.hpp"

#include <dmaflow/kms.hpp>
#include <dmaflow/udmabuf.hpp>
#include <dmaflow/v4l2.hpp>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;
using vulkan::Device;

TEST(VulkanCreate, ListsEveryDeviceAndSaysWhyNotThis) {
  const LeakCheck leaks;
  const auto all = vulkan::list();
  if (!all && !in_lab()) GTEST_SKIP() << all.error().message();
  ASSERT_TRUE(all) << all.error().message();
  ASSERT_FALSE(all->empty());
  for (const auto& one : *all) {
    std::printf("%s, driver %s, node %s: %s\n", one.name.c_str(), one.driver.c_str(), one.node.c_str(),
                one.refusal ? one.refusal->message().c_str() : "can be used");
  }
  const auto none = Device::create({.name = "no such GPU"});
  ASSERT_TRUE(fails_with(none, ENODEV));
  EXPECT_TRUE(mentions(none.error(), "no such GPU")) << none.error().message();
  const auto hardware = Device::create({.allow_software = false});
  if (hardware) {
    EXPECT_FALSE((*hardware)->is_software());
  } else if (std::ranges::all_of(*all, &vulkan::PhysicalDevice::is_software)) {
    ASSERT_TRUE(fails_with(hardware, ENODEV));
    EXPECT_TRUE(mentions(hardware.error(), "software")) << hardware.error().message();
  }
  const auto by_node = Device::create({.node = "/dev/dri/card0"});
  if (by_node) {
    EXPECT_FALSE((*by_node)->node().empty());
  } else if (in_lab()) {
    ASSERT_TRUE(fails_with(by_node, ENODEV));
    EXPECT_TRUE(mentions(by_node.error(), "/dev/dri/card0")) << by_node.error().message();
  }
}

TEST(VulkanCreate, ByAPartOfItsNameInAnyCase) {
  const auto all = vulkan::list();
  if (!all && !in_lab()) GTEST_SKIP() << all.error().message();
  ASSERT_TRUE(all) << all.error().message();
  const auto first = std::ranges::find_if(*all, [](const auto& one) { return !one.refusal; });
  if (first == all->end()) GTEST_SKIP() << "no device here can be used";
  std::string part = first->name.substr(0, first->name.find(' '));
  for (char& letter : part) {
    const auto as_it_is = static_cast<unsigned char>(letter);
    letter = static_cast<char>(std::isupper(as_it_is) != 0 ? std::tolower(as_it_is) : std::toupper(as_it_is));
  }
  const auto gpu = Device::create({.name = part});
  ASSERT_TRUE(gpu) << gpu.error().message();
  EXPECT_EQ((*gpu)->name(), first->name);
}

/// The program's own device, created with plain Vulkan calls.
struct OwnDevice {
  VkInstance instance = VK_NULL_HANDLE;
  VkPhysicalDevice physical = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  PFN_vkGetInstanceProcAddr get = nullptr;

  template <typename F>
  F function(const char* name) const {
    return reinterpret_cast<F>(get(instance, name));
  }
  explicit OwnDevice(std::span<const char* const> extensions, std::uint32_t version = VK_API_VERSION_1_1) {
    get = reinterpret_cast<PFN_vkGetInstanceProcAddr>(
        ::dlsym(::dlopen("libvulkan.so.1", RTLD_NOW), "vkGetInstanceProcAddr"));
    VkApplicationInfo application{};
    application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
    application.apiVersion = version;
    VkInstanceCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    info.pApplicationInfo = &application;
    EXPECT_EQ(function<PFN_vkCreateInstance>("vkCreateInstance")(&info, nullptr, &instance), VK_SUCCESS);
    std::uint32_t one = 1;
    function<PFN_vkEnumeratePhysicalDevices>("vkEnumeratePhysicalDevices")(instance, &one, &physical);
    const float priority = 1;
    VkDeviceQueueCreateInfo queue{};
    queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
    queue.queueCount = 1;
    queue.pQueuePriorities = &priority;
    VkDeviceCreateInfo wanted{};
    wanted.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
    wanted.queueCreateInfoCount = 1;
    wanted.pQueueCreateInfos = &queue;
    wanted.enabledExtensionCount = static_cast<std::uint32_t>(extensions.size());
    wanted.ppEnabledExtensionNames = extensions.data();
    EXPECT_EQ(function<PFN_vkCreateDevice>("vkCreateDevice")(physical, &wanted, nullptr, &device), VK_SUCCESS);
  }
  ~OwnDevice() {
    function<PFN_vkDestroyDevice>("vkDestroyDevice")(device, nullptr);
    function<PFN_vkDestroyInstance>("vkDestroyInstance")(instance, nullptr);
  }
  OwnDevice(const OwnDevice&) = delete;
  OwnDevice& operator=(const OwnDevice&) = delete;

  [[nodiscard]] vulkan::Existing existing(std::span<const char* const> extensions) const {
    return {.instance = instance,
            .physical_device = physical,
            .device = device,
            .get_instance_proc_addr = get,
            .extensions = extensions};
  }
};

TEST(VulkanAdopt, TheProgramsOwnDeviceIsUsedAndLeftAlone) {
  if (!in_lab()) GTEST_SKIP() << "wants lavapipe as the only device";
  const LeakCheck leaks;
  const Buffer buffer = heap_buffer({64, 48}, formats::xrgb8888);
  const OwnDevice own(vulkan::required_extensions());
  auto gpu = must(Device::adopt(own.existing(vulkan::required_extensions())), "adopt");
  EXPECT_EQ(gpu->handle(), own.device);
  const auto image = must(gpu->import_image(buffer, VK_IMAGE_USAGE_SAMPLED_BIT), "import");
  EXPECT_NE(image.image, VkImage{});
  gpu->detach();
  EXPECT_TRUE(fails_with(gpu->import_image(buffer, VK_IMAGE_USAGE_SAMPLED_BIT), ENODEV));
}

TEST(VulkanAdopt, WhatVulkan12ContainsNeedNotBeNamed) {
  if (!in_lab()) GTEST_SKIP() << "wants lavapipe as the only device";
  std::vector<const char*> fewer(vulkan::required_extensions().begin(), vulkan::required_extensions().end());
  std::erase_if(fewer, [](std::string_view one) { return one == VK_KHR_IMAGE_FORMAT_LIST_EXTENSION_NAME; });
  ASSERT_LT(fewer.size(), vulkan::required_extensions().size());
  const OwnDevice own(fewer, VK_API_VERSION_1_2);
  auto gpu = must(Device::adopt(own.existing(fewer)), "adopt");
  const Buffer buffer = heap_buffer({64, 48}, formats::xrgb8888);
  EXPECT_TRUE(gpu->import_image(buffer, VK_IMAGE_USAGE_SAMPLED_BIT));
}

TEST(VulkanAdopt, WhatIsMissingIsNamed) {
  if (!in_lab()) GTEST_SKIP() << "wants lavapipe as the only device";
  const LeakCheck leaks;
  const OwnDevice own(vulkan::required_extensions());
  const auto all_but_one = vulkan::required_extensions().subspan(1);
  const auto refused = Device::adopt(own.existing(all_but_one));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), VK_ERROR_EXTENSION_NOT_PRESENT);
  EXPECT_TRUE(mentions(refused.error(), vulkan::required_extensions()[0])) << refused.error().message();
  auto without = own.existing(vulkan::required_extensions());
  without.get_instance_proc_addr = nullptr;
  EXPECT_TRUE(fails_with(Device::adopt(without), EINVAL));
  auto other_queue = own.existing(vulkan::required_extensions());
  other_queue.queue_family = 77;
  EXPECT_TRUE(fails_with(Device::adopt(other_queue), EINVAL));
}

class Vulkan : public VulkanTest {};

TEST_F(Vulkan, SaysWhatItCanDoWithAFormat) {
  const auto all = gpu->support(formats::xrgb8888, VK_IMAGE_USAGE_SAMPLED_BIT);
  const auto linear = std::ranges::find(all, Modifier::linear(), &vulkan::FormatSupport::modifier);
  if (linear == all.end()) GTEST_SKIP() << "the device has no linear XRGB8888";
  EXPECT_EQ(linear->plane_count, 1U);
  EXPECT_GE(linear->max_size.width, 64U);
  EXPECT_GE(linear->max_size.height, 48U);
  const auto image = gpu->import_image(heap_buffer({64, 48}, formats::xrgb8888), VK_IMAGE_USAGE_SAMPLED_BIT);
  if (!linear->importable) {
    EXPECT_FALSE(image) << "it says that it does not import";
  } else {
    EXPECT_TRUE(image || !in_lab()) << image.error().message();  // hardware may refuse the stride
  }
  EXPECT_TRUE(gpu->support(formats::mjpeg, VK_IMAGE_USAGE_SAMPLED_BIT).empty());
}

TEST_F(Vulkan, EveryMemoryOfThisMachineIsImportedOnceAndFoundAgain) {
  if (!in_lab()) GTEST_SKIP() << "wants the lab's devices";
  std::vector<std::pair<std::string, Buffer>> all;
  const Request request{.size = {640, 480}, .format = formats::xrgb8888};
  all.emplace_back("heap", must(system_heap()->allocate(request)).front());
  all.emplace_back("udmabuf", must(must(udmabuf::Allocator::open())->allocate(request)).front());
  all.emplace_back("vulkan", must(gpu->allocator().allocate(request)).front());
  for (const kms::Card& card : kms::list()) {
    auto display = kms::Device::open(card.path);
    if (!display || (*display)->allocator() == nullptr) continue;
    all.emplace_back(card.driver, must((*display)->allocator()->allocate(request)).front());
  }
  const std::size_t of_displays = 3;  // buffers from this index on are display drivers'
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& [origin, buffer] = all[i];
    const auto image = gpu->import_image(buffer, VK_IMAGE_USAGE_SAMPLED_BIT);
    if (i >= of_displays) {
      observe("lavapipe imports dumb buffers of " + origin, image ? "yes" : std::string(image.error().operation()));
      if (!image) {
        EXPECT_EQ(image.error().device(), gpu->name()) << image.error().message();
        EXPECT_FALSE(image.error().operation().empty());
        continue;
      }
    }
    ASSERT_TRUE(image) << origin << ": " << image.error().message();
    const CountCalls calls;
    const auto again = must(gpu->import_image(buffer, VK_IMAGE_USAGE_SAMPLED_BIT));
    EXPECT_EQ(again.image, image->image) << origin;
    EXPECT_EQ(calls.calls(), 0U) << origin << ": a second import costs system calls";
    EXPECT_TRUE(gpu->import_memory(buffer, 0, VK_BUFFER_USAGE_STORAGE_BUFFER_BIT)) << origin;
  }
  EXPECT_GE(all.size(), 4U);
}

TEST_F(Vulkan, AnImportDiesWithTheBufferAndWithTheDevice) {
  const LeakCheck leaks;
  auto second = must(Device::create({.validation = true}));
  {
    const Buffer buffer = heap_buffer({64, 48}, formats::nv12);
    for (const std::uint32_t plane : {0U, 1U}) must(second->import_plane(buffer, plane, VK_IMAGE_USAGE_SAMPLED_BIT));
  }
  const Buffer outlives = heap_buffer({64, 48}, formats::xrgb8888);
  must(second->import_image(outlives, VK_IMAGE_USAGE_SAMPLED_BIT));
  second.reset();
}

TEST_F(Vulkan, WhatCannotBeImportedIsOneClearErrorAndLeavesNothing) {
  const LeakCheck leaks;
  const auto usage = VK_IMAGE_USAGE_SAMPLED_BIT;
  const auto with_modifier = [](Modifier modifier) {
    Layout layout = must(Layout::linear(formats::xrgb8888, {64, 48}));
    layout.modifier = modifier;
    if (modifier.is_vendor()) layout.opaque_bytes = 64UL * 48 * 4;
    Buffer plain = heap_buffer({64, 48}, formats::xrgb8888);
    auto fd = must(Fd::dup_of(plain.fd(0)));
    return must(Buffer::create(layout, fd, {.origin = "test"}));
  };
  const auto implicit = gpu->import_image(with_modifier(Modifier::implicit()), usage);
  ASSERT_TRUE(fails_with(implicit, EINVAL));
  EXPECT_TRUE(mentions(implicit.error(), "INVALID")) << implicit.error().message();
  const auto tiled = Modifier::from_value(0x0100000000000001);  // Intel's X tiles
  std::string importable;
  bool has_tiled = false;
  for (const auto& one : gpu->support(formats::xrgb8888, usage)) {
    if (one.importable && importable.empty()) importable = "importable: " + one.modifier.name();
    has_tiled = has_tiled || (one.importable && one.modifier == tiled);
  }
  if (!has_tiled) {
    const auto vendor = gpu->import_image(with_modifier(tiled), usage);
    ASSERT_TRUE(fails_with(vendor, ENOTSUP));
    EXPECT_TRUE(mentions(vendor.error(), importable)) << vendor.error().message();
  }
  const auto no_format = gpu->import_image(heap_buffer({64, 48}, formats::nv21), usage);
  ASSERT_TRUE(fails_with(no_format, ENOTSUP));
  EXPECT_TRUE(mentions(no_format.error(), "NV21")) << no_format.error().message();
  EXPECT_TRUE(fails_with(gpu->import_plane(heap_buffer({64, 48}, formats::nv12), 2, usage), EINVAL));
  EXPECT_TRUE(fails_with(gpu->import_memory(heap_buffer({64, 48}, formats::nv12), 1, 0), EINVAL));
}

TEST_F(Vulkan, EverySystemCallThatFailsInAnImportLeavesNothing) {
  const LeakCheck leaks;
  const Buffer buffer = heap_buffer({64, 48}, formats::xrgb8888);
  std::size_t nth = 1;
  for (;; ++nth) {
    const FailNth fault(nth, EMFILE, "dup");
    const auto image = gpu->import_image(buffer, VK_IMAGE_USAGE_SAMPLED_BIT);
    if (!fault.fired()) {
      EXPECT_TRUE(image);
      break;
    }
    EXPECT_TRUE(fails_with(image, EMFILE));
  }
  EXPECT_GT(nth, 1U) << "nothing was failed";
}

TEST_F(Vulkan, GivesItsMemoryToOthers) {
  const LeakCheck leaks;
  for (const PixelFormat format : {formats::xrgb8888, formats::nv12, formats::yuyv, formats::mjpeg}) {
    Request request{.size = {640, 480}, .format = format, .count = 3};
    if (format == formats::mjpeg) request.opaque_bytes = 100000;
    const auto buffers = gpu->allocator().allocate(request);
    ASSERT_TRUE(buffers) << format.name() << ": " << buffers.error().message();
    ASSERT_EQ(buffers->size(), 3U);
    EXPECT_EQ(buffers->front().origin(), "vulkan");
    EXPECT_EQ(::fcntl(buffers->front().fd(0), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    fill_with_noise(buffers->front(), 1);
  }
}

TEST_F(Vulkan, MeetsWhatIsAskedOfItsMemoryOrRefuses) {
  Request request{.size = {641, 361}, .format = formats::xrgb8888};
  request.constraints.stride_alignment = 256;
  request.constraints.size_alignment = 65536;
  const auto buffer = must(gpu->allocator().allocate(request)).front();
  EXPECT_EQ(buffer.layout().planes[0].stride % 256, 0U);
  EXPECT_EQ(buffer.size(0) % 65536, 0U);
  request.constraints.contiguous = true;
  EXPECT_TRUE(fails_with(gpu->allocator().allocate(request), EINVAL));
  Request implicit{.size = {64, 48}, .format = formats::xrgb8888, .modifiers = {Modifier::implicit()}};
  EXPECT_FALSE(gpu->allocator().allocate(implicit));
  Request none{.size = {0, 48}, .format = formats::xrgb8888};
  EXPECT_TRUE(fails_with(gpu->allocator().allocate(none), EINVAL));
}

// --- Fences

TEST_F(Vulkan, FencesGoInAndOut) {
  if (in_lab()) {
    observe("lavapipe imports sync_files", gpu->imports_fences(), "docs/gpu.md");
    observe("lavapipe exports sync_files", gpu->exports_fences(), "docs/gpu.md");
  }
  Fence null;
  if (!gpu->imports_fences()) {
    EXPECT_TRUE(fails_with(gpu->import_fence(null, VK_NULL_HANDLE), ENOTSUP));
    if (!gpu->exports_fences()) {
      EXPECT_TRUE(fails_with(gpu->create_semaphore(), ENOTSUP));
    }
    return;
  }
  const VkSemaphore semaphore = must(gpu->create_semaphore());
  EXPECT_TRUE(gpu->import_fence(null, semaphore)) << "null is signalled already";
  if (in_lab()) {
    SwSync timeline;
    Fence over = timeline.fence(1);
    timeline.advance();
    EXPECT_TRUE(gpu->import_fence(over, semaphore));
    EXPECT_TRUE(over.is_null()) << "taken";
  }
  const auto destroy =
      reinterpret_cast<PFN_vkDestroySemaphore>(gpu->get_instance_proc_addr()(gpu->instance(), "vkDestroySemaphore"));
  destroy(gpu->handle(), semaphore, nullptr);
}

TEST_F(Vulkan, ATimelineThatIsNoSyncobjIsRefusedAndStaysTheCallers) {
  const LeakCheck leaks;
  Fd memory = Fd::adopt(::memfd_create("no syncobj", MFD_CLOEXEC));
  ASSERT_TRUE(fails_with(gpu->import_timeline(memory), EINVAL));
  EXPECT_TRUE(memory);
}

}  // namespace
}  // namespace dmaflow::test
