// A failed import returns one error that names the device, the call and the reason, and leaks no descriptor and nothing
// in the kernel. Buffers of every memory of the machine that can be imported are read by the GPU byte for byte.
#include "kms_support.hpp"
#include "v4l2_support.hpp"
#include "vulkan_calls.hpp"

#include <dmaflow/gbm.hpp>
#include <dmaflow/kms.hpp>
#include <dmaflow/udmabuf.hpp>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;

constexpr auto sampled = VK_IMAGE_USAGE_SAMPLED_BIT;

/// Replaces a buffer's dma-buf with another file for a test, and restores it at the end.
class Replaced {
 public:
  Replaced(const Buffer& buffer, int other) : number_(buffer.fd(0)), kept_(must(Fd::dup_of(buffer.fd(0)))) {
    EXPECT_EQ(other < 0 ? ::close(number_) : ::dup3(other, number_, O_CLOEXEC), other < 0 ? 0 : number_);
  }
  ~Replaced() { EXPECT_EQ(::dup3(kept_.get(), number_, O_CLOEXEC), number_); }
  Replaced(const Replaced&) = delete;
  Replaced& operator=(const Replaced&) = delete;

 private:
  int number_;
  Fd kept_;
};

class VulkanErrors : public VulkanTest {
 protected:
  void SetUp() override {
    if (!in_lab()) GTEST_SKIP() << "wants the lab's devices";
    VulkanTest::SetUp();
  }
  /// Expects one error with all details, and the same open descriptors as before.
  template <typename Import>
  void expect_refusal(const char* what, const Import& import, int code, std::initializer_list<std::string_view> words) {
    const auto before = open_fds();
    const auto result = import();
    EXPECT_EQ(open_fds(), before) << what;
    ASSERT_TRUE(fails_with(result, code)) << what;
    const std::string message = result.error().message();
    std::printf("%s: %s\n", what, message.c_str());
    EXPECT_EQ(result.error().device(), gpu->name()) << what;
    EXPECT_FALSE(result.error().operation().empty()) << what;
    for (const std::string_view word : words) EXPECT_NE(message.find(word), std::string::npos) << what << ": " << word;
  }
  /// Whether memory is imported that a driver is free to refuse. A refusal names the device and the call.
  bool is_imported(const Buffer& buffer, const std::string& fact) {
    const auto image = gpu->import_image(buffer, sampled);
    observe(fact, image ? "yes" : std::string(image.error().operation()));
    if (image) return true;
    EXPECT_EQ(image.error().device(), gpu->name()) << image.error().message();
    EXPECT_FALSE(image.error().operation().empty()) << image.error().message();
    return false;
  }
};

TEST_F(VulkanErrors, ADmaBufThatHasLessThanTheGpuNeeds) {
  const LeakCheck leaks;
  // Long rows; the last one ends after its pixels. This is enough for a camera, but less than whole rows.
  Layout layout = must(Layout::linear(formats::xrgb8888, {64, 16}, {.stride_alignment = 8192}));
  Fd large_fd = heap_dma_buf(16UL * 8192 + 65536);
  const Buffer large = must(Buffer::create(layout, large_fd, {.origin = "large"}), "create");
  const auto image = must(gpu->import_image(large, sampled), "import");
  const auto requirements_of = reinterpret_cast<PFN_vkGetImageMemoryRequirements>(
      gpu->get_instance_proc_addr()(gpu->instance(), "vkGetImageMemoryRequirements"));
  VkMemoryRequirements needs{};
  requirements_of(gpu->handle(), image.image, &needs);
  constexpr std::uint64_t bytes = 15UL * 8192 + 4096;
  observe("lavapipe needs whole rows of a linear image", needs.size > bytes);
  Fd fd = heap_dma_buf(bytes);
  const int number = fd.get();
  const Buffer buffer = must(Buffer::create(layout, fd, {.origin = "short"}), "create");
  if (needs.size <= bytes) {
    EXPECT_TRUE(gpu->import_image(buffer, sampled));
  } else {
    const std::string needed = std::to_string(needs.size);
    const std::string there = std::to_string(bytes);
    expect_refusal("short", [&] { return gpu->import_image(buffer, sampled); }, EINVAL,
                   {"vkAllocateMemory", needed, there});
  }
  EXPECT_EQ(buffer.fd(0), number);
  fill_with_noise(buffer, 1);  // it is unchanged
}

TEST_F(VulkanErrors, WhatIsNoDmaBufUnderABuffersNumber) {
  const LeakCheck leaks;
  const Buffer buffer = heap_buffer({64, 48}, formats::xrgb8888);
  const Fd memory = Fd::adopt(::memfd_create("no dma-buf", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(memory.get(), 65536), 0);
  const Fd file = Fd::adopt(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_TRUE(file);
  ASSERT_EQ(::ftruncate(file.get(), 65536), 0);
  {
    const Replaced closed(buffer, -1);
    expect_refusal("closed", [&] { return gpu->import_image(buffer, sampled); }, EBADF, {"is not open"});
  }
  for (const Fd* other : {&memory, &file}) {
    const Replaced replaced(buffer, other->get());
    expect_refusal("no dma-buf", [&] { return gpu->import_image(buffer, sampled); }, EINVAL, {"not a dma-buf"});
    expect_refusal("no dma-buf", [&] { return gpu->import_memory(buffer, 0, VK_BUFFER_USAGE_STORAGE_BUFFER_BIT); },
                   EINVAL, {"not a dma-buf"});
  }
  EXPECT_TRUE(gpu->import_image(buffer, sampled)) << "no refusal is remembered";
}

// A file that is not a dma-buf cannot become a buffer, so it cannot be imported. The descriptor stays the caller's.
TEST_F(VulkanErrors, WhatIsNoDmaBufBecomesNoBuffer) {
  const LeakCheck leaks;
  const Layout layout = must(Layout::linear(formats::xrgb8888, {64, 48}));
  Fd memory = Fd::adopt(::memfd_create("no dma-buf", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(memory.get(), 65536), 0);
  EXPECT_TRUE(fails_with(Buffer::create(layout, memory, {.origin = "test"}), EINVAL));
  EXPECT_TRUE(memory);
  Fd small = heap_dma_buf(4096);
  EXPECT_TRUE(fails_with(Buffer::create(layout, small, {.origin = "test"}), EINVAL));
  EXPECT_TRUE(small);
}

// lavapipe accepts every stride, so the test returns the errors of a GPU that does not.
TEST_F(VulkanErrors, WhatTheDriverRefusesIsNamedAndUndone) {
  struct Row {
    VulkanCall call;
    VkResult result;
    bool as_image;
    std::string_view says;
  };
  const Row rows[] = {
      {VulkanCall::CreateImage, VK_ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT, true, "stride 512"},
      {VulkanCall::CreateImage, VK_ERROR_OUT_OF_DEVICE_MEMORY, true, "XRGB8888"},
      {VulkanCall::AllocateMemory, VK_ERROR_INVALID_EXTERNAL_HANDLE, true, "heap"},
      {VulkanCall::BindImageMemory2, VK_ERROR_OUT_OF_HOST_MEMORY, true, ""},
      {VulkanCall::CreateBuffer, VK_ERROR_OUT_OF_DEVICE_MEMORY, false, ""},
      {VulkanCall::AllocateMemory, VK_ERROR_TOO_MANY_OBJECTS, false, "heap"},
      {VulkanCall::BindBufferMemory2, VK_ERROR_OUT_OF_HOST_MEMORY, false, ""},
  };
  gpu = must(vulkan::Device::create({.validation = true, .get_instance_proc_addr = VulkanCalls::get()}), "device");
  for (const Row& row : rows) {
    const LeakCheck leaks;
    const VulkanCalls calls;
    const Buffer buffer = heap_buffer({64, 48}, formats::xrgb8888, {.stride_alignment = 512});
    VulkanCalls::answer(row.call, row.result);
    const auto refused = [&]() -> Result<void> {
      if (row.as_image) {
        const auto image = gpu->import_image(buffer, sampled);
        return image ? Result<void>() : std::unexpected(image.error());
      }
      const auto memory = gpu->import_memory(buffer, 0, VK_BUFFER_USAGE_STORAGE_BUFFER_BIT);
      return memory ? Result<void>() : std::unexpected(memory.error());
    };
    const auto name = vulkan_call_names[static_cast<std::size_t>(row.call)];
    expect_refusal(name.data(), refused, row.result, {name, row.says});
    VulkanCalls::answer(row.call, VK_SUCCESS);
    EXPECT_TRUE(refused()) << name << ": the buffer can still be imported";
  }
}

TEST_F(VulkanErrors, PlanesInSeveralDmaBufsGoOneByOneOrAreRefused) {
  const LeakCheck leaks;
  const Buffer apart = heap_buffer({64, 48}, formats::nv12, {.separate_objects = true});
  ASSERT_EQ(apart.object_count(), 2U);
  const auto whole = gpu->import_image(apart, sampled);
  observe("lavapipe takes NV12 in two dma-bufs as one image", whole.has_value(), "docs/gpu.md");
  if (!whole) {
    std::printf("whole: %s\n", whole.error().message().c_str());
    EXPECT_EQ(whole.error().device(), gpu->name());
    EXPECT_FALSE(whole.error().detail().empty());
  }
  for (const std::uint32_t plane : {0U, 1U}) EXPECT_TRUE(gpu->import_plane(apart, plane, sampled)) << plane;
  EXPECT_TRUE(gpu->import_memory(apart, 1, VK_BUFFER_USAGE_STORAGE_BUFFER_BIT));
}

// --- Contents

/// Compares how the GPU reads a buffer, by a stage that changes nothing, with how the CPU reads it.
void expect_read_right(vulkan::Device& gpu, const Buffer& buffer, const std::string& origin) {
  auto stage = HeapStage::started(gpu, std::span(&buffer, 1));
  must(stage.convert->accept(frame_of(buffer)), origin.c_str());
  const Frame result = must(stage.convert->take(), origin.c_str());
  ASSERT_TRUE(result) << origin;
  must(result.ready().wait(Deadline::after(10s)), origin.c_str());
  const auto is = must(CpuAccess::begin(result.buffer(), Access::read, Deadline::after(5s)), origin.c_str());
  const auto was = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), origin.c_str());
  const Size size = buffer.layout().size;
  std::size_t differ = 0;
  bool is_blank = true;
  for (std::uint32_t y = 0; y < size.height; ++y) {
    const auto* one = &is.plane(0)[std::size_t{y} * result.buffer().layout().planes[0].stride];
    const auto* other = &was.plane(0)[std::size_t{y} * buffer.layout().planes[0].stride];
    for (std::uint32_t i = 0; i < size.width * 4; ++i) {
      if (i % 4 == 3) continue;  // the unused byte
      if (one[i] != other[i]) ++differ;
      if (other[i] != std::byte{0}) is_blank = false;
    }
  }
  EXPECT_EQ(differ, 0U) << origin;
  EXPECT_FALSE(is_blank) << origin << ": nothing to compare";
}

TEST_F(VulkanErrors, EveryMemoryIsReadRight) {
  const LeakCheck leaks;
  const Request request{
      .size = {96, 64}, .format = formats::xrgb8888, .modifiers = {Modifier::linear()}, .constraints = {}};
  std::vector<std::pair<std::string, Buffer>> all;
  all.emplace_back("heap", must(system_heap()->allocate(request)).front());
  all.emplace_back("udmabuf", must(must(udmabuf::Allocator::open())->allocate(request)).front());
  all.emplace_back("vulkan", must(gpu->allocator().allocate(request)).front());
  std::size_t of_drivers = 0;
  const auto add = [&](const std::string& origin, const Result<std::vector<Buffer>>& made) {
    std::printf("%s: %s\n", origin.c_str(), made ? "made" : made.error().message().c_str());
    if (!made) return;
    ++of_drivers;
    if (is_imported(made->front(), "lavapipe imports " + origin)) all.emplace_back(origin, made->front());
  };
  for (const kms::Card& card : kms::list()) {
    if (card.connectors.empty()) continue;
    if (auto display = kms::Device::open(card.path); display && (*display)->allocator() != nullptr) {
      add("dumb buffers of " + card.driver, (*display)->allocator()->allocate(request));
    }
    if (auto gbm = gbm::Device::open(card.path)) {
      add("GBM's buffers of " + card.driver, (*gbm)->allocator().allocate(request));
    } else {
      std::printf("GBM on %s: %s\n", card.driver.c_str(), gbm.error().message().c_str());
    }
  }
  EXPECT_GT(of_drivers, 0U) << "no display has memory of its own";
  for (const auto& [origin, buffer] : all) {
    fill_with_noise(buffer, 11);
    expect_read_right(*gpu, buffer, origin);
  }
}

// A row that is not a whole number of pixels. DRM allows it, and the GPU either accepts or refuses it.
TEST_F(VulkanErrors, AnOddStrideIsFollowedOrRefused) {
  const LeakCheck leaks;
  Layout layout = must(Layout::linear(formats::xrgb8888, {64, 48}));
  layout.planes[0].stride = 258;
  Fd fd = heap_dma_buf(65536);
  const Buffer buffer = must(Buffer::create(layout, fd, {.origin = "odd stride"}), "create");
  if (!is_imported(buffer, "lavapipe imports rows of no whole number of pixels")) return;
  fill_with_noise(buffer, 12);
  expect_read_right(*gpu, buffer, "odd stride");
}

TEST_F(VulkanErrors, AFrameInTheCamerasOwnMemoryIsReadRight) {
  const LeakCheck leaks;
  for (const bool multiplanar : {false, true}) {
    const auto camera = must(v4l2::Camera::open(vivid(Kind::capture, multiplanar)));
    set_input(*camera, {320, 180}, formats::xrgb8888);
    const auto buffers = own_buffers(*camera, 3);
    if (!is_imported(buffers[0], std::string("lavapipe imports buffers of a ") +
                                     (multiplanar ? "multi-planar vivid" : "single-planar vivid"))) {
      continue;
    }
    must(camera->start(buffers), "start");
    const Frame frame = capture_one(*camera);
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame.buffer().origin(), "camera");
    expect_read_right(*gpu, frame.buffer(), multiplanar ? "multi-planar camera" : "camera");
    must(camera->stop(), "stop");
  }
}

}  // namespace
}  // namespace dmaflow::test
