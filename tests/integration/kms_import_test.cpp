// Framebuffers and memory handles: made once, found again at no cost, released exactly once.
#include "kms_support.hpp"

#include <dmaflow/kms.hpp>

#include <linux/dma-heap.h>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;

/// A dma-buf of the system heap, made without the library.
Fd heap_memory(std::size_t bytes) {
  const Fd heap = Fd::adopt(::open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC));
  dma_heap_allocation_data request{.len = bytes, .fd = 0, .fd_flags = O_RDWR | O_CLOEXEC, .heap_flags = 0};
  if (!heap || ioctl(heap.get(), DMA_HEAP_IOCTL_ALLOC, &request) != 0) {
    ADD_FAILURE() << "no memory from the system heap";
    return {};
  }
  return Fd::adopt(static_cast<int>(request.fd));
}

Buffer heap_buffer(Size size, PixelFormat format = formats::xrgb8888) {
  const Layout layout = *Layout::linear(format, size);
  Fd memory = heap_memory(layout.object_sizes()[0] + 4096);
  return must(Buffer::create(layout, memory, {.is_protected = false, .origin = "heap:system"}));
}

/// The error of a display that cannot show foreign memory states whose memory it was and what to use instead.
void expect_says_what_helps(const Error& error) {
  EXPECT_EQ(error.operation(), "DRM_IOCTL_PRIME_FD_TO_HANDLE") << error.message();
  EXPECT_NE(error.detail().find("display's own allocator"), std::string_view::npos) << error.message();
  EXPECT_NE(error.detail().find("heap:system"), std::string_view::npos) << error.message();
}

struct Configured {
  std::unique_ptr<kms::Device> device;
  kms::Output* output;
  kms::Plane* plane;
};

Configured configured(const std::string& driver, const StreamConfig& config = stream_of({1024, 768})) {
  auto device = must(kms::Device::open(card_path(driver)));
  kms::Output* const output = must(device->output());
  kms::Plane* const plane = must(output->plane());
  must(plane->set_input(config));
  return {std::move(device), output, plane};
}

std::vector<Buffer> dumb_buffers(kms::Device& device, std::uint32_t count = 1, Size size = {1024, 768},
                                 PixelFormat format = formats::xrgb8888) {
  return must(device.allocator()->allocate({.size = size, .format = format, .count = count}));
}

TEST(KmsImport, NothingIsShownWhereThatIsNotWanted) {
  for (const std::string& driver : displays()) {
    const LeakCheck leaks;
    const auto card = must(kms::Device::open(card_path(driver)));
    kms::Output* const output = must(card->output());
    kms::Plane* const plane = must(output->plane({.may_show_to_try = false}));
    must(plane->set_input(stream_of({1024, 768})));
    const Buffer buffer = dumb_buffers(*card).front();
    const CountCalls commits("ioctl", DRM_IOCTL_MODE_ATOMIC);
    must(plane->import(buffer), driver.c_str());
    EXPECT_EQ(commits.calls(), 1U) << driver << ": the one that only tests";
    EXPECT_FALSE(plane->moves(buffer));
  }
}

TEST(KmsImport, OwnBuffersAreTakenByEveryDisplay) {
  for (const std::string& driver : displays()) {
    const LeakCheck leaks;
    const auto screen = configured(driver);
    for (const Buffer& buffer : dumb_buffers(*screen.device, 3)) {
      const auto done = screen.plane->import(buffer);
      EXPECT_TRUE(done) << done.error().message();
      EXPECT_EQ(buffer.origin(), "display");
    }
  }
}

TEST(KmsImport, ForeignBuffersAreTakenOrRefusedWithWhatWouldHelp) {
  for (const std::string& driver : displays()) {
    const LeakCheck leaks;
    const auto screen = configured(driver);
    const Buffer buffer = heap_buffer({1024, 768});
    const auto done = screen.plane->import(buffer);
    observe(driver + " shows memory of the system heap", done ? "yes" : outcome(done.error()), "docs/kms.md");
    if (!done) expect_says_what_helps(done.error());
    // The same driver with the opposite behaviour: one that accepts foreign memory refuses it. Only this direction can
    // be simulated at the seam.
    const Buffer other = heap_buffer({1024, 768});
    for (const int answer : {ENODEV, EINVAL, EOPNOTSUPP}) {
      const FailNth refuses(1, answer, "ioctl", DRM_IOCTL_PRIME_FD_TO_HANDLE);
      const auto refused = screen.plane->import(other);
      ASSERT_TRUE(fails_with(refused, answer)) << driver;
      expect_says_what_helps(refused.error());
    }
  }
}

TEST(KmsImport, ASecondImportCostsNoSystemCall) {
  const auto screen = configured("vkms");
  const auto buffers = dumb_buffers(*screen.device);
  must(screen.plane->import(buffers[0]));
  const CountCalls calls;
  EXPECT_TRUE(screen.plane->import(buffers[0]));
  EXPECT_EQ(calls.calls(), 0U);
}

TEST(KmsImport, EachHandleIsClosedExactlyOnce) {
  const auto screen = configured("vkms");
  const auto buffers = dumb_buffers(*screen.device, 4);
  Recorder calls;
  for (const Buffer& buffer : buffers) must(screen.plane->import(buffer));
  EXPECT_EQ(calls.count(DRM_IOCTL_PRIME_FD_TO_HANDLE), 4U);
  EXPECT_EQ(calls.count(DRM_IOCTL_GEM_CLOSE), 4U);
}

TEST(KmsImport, OneDmaBufThroughTwoDescriptorsClosesEachHandleOnce) {
  const auto screen = configured("vkms");
  const Layout layout = *Layout::linear(formats::xrgb8888, {1024, 768});
  Fd memory = heap_memory(layout.object_sizes()[0]);
  Fd again = must(Fd::dup_of(memory.get()));
  const Buffer one = must(Buffer::create(layout, memory, {}));
  const Buffer two = must(Buffer::create(layout, again, {}));
  EXPECT_EQ(one.id(0), two.id(0));
  Recorder calls;
  must(screen.plane->import(one));
  must(screen.plane->import(two));
  EXPECT_EQ(calls.count(DRM_IOCTL_MODE_ADDFB2), 2U) << "a framebuffer each, for each ends with its own buffer";
  EXPECT_EQ(calls.count(DRM_IOCTL_PRIME_FD_TO_HANDLE), calls.count(DRM_IOCTL_GEM_CLOSE));
}

TEST(KmsImport, HandlesTheUserHoldsAreNotClosed) {
  const std::string path = card_path("vkms");
  const Fd owner = Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  Fd dup = must(Fd::dup_of(owner.get()));
  const auto device = must(kms::Device::adopt(dup));
  kms::Plane* const plane = must(must(device->output())->plane());
  must(plane->set_input(stream_of({1024, 768})));
  const Buffer buffer = heap_buffer({1024, 768});
  drm_prime_handle prime{.handle = 0, .flags = 0, .fd = buffer.fd(0)};
  ASSERT_EQ(ioctl(owner.get(), DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime), 0);
  device->keep_handle(prime.handle);
  {
    const CountCalls closes("ioctl", DRM_IOCTL_GEM_CLOSE);
    must(plane->import(buffer));
    EXPECT_EQ(closes.calls(), 0U);
  }
  device->forget_handle(prime.handle);
  drm_gem_close close{.handle = prime.handle, .pad = 0};
  EXPECT_EQ(ioctl(owner.get(), DRM_IOCTL_GEM_CLOSE, &close), 0) << "the user's handle was closed";
}

TEST(KmsImport, AFramebufferEndsWithItsBuffer) {
  const auto screen = configured("vkms");
  auto buffers = dumb_buffers(*screen.device, 2);
  for (const Buffer& buffer : buffers) must(screen.plane->import(buffer));
  Recorder calls;
  buffers.pop_back();
  EXPECT_EQ(calls.count_framebuffers_ended(), 1U);
  buffers.clear();
  EXPECT_EQ(calls.count_framebuffers_ended(), 2U);
}

TEST(KmsImport, BuffersOutliveTheirDevice) {
  const LeakCheck leaks;
  std::vector<Buffer> buffers;
  Recorder calls;
  {
    const auto screen = configured("vkms");
    buffers = dumb_buffers(*screen.device, 2);
    for (const Buffer& buffer : buffers) must(screen.plane->import(buffer));
    calls.clear();
  }
  EXPECT_EQ(calls.count_framebuffers_ended(), 2U) << "the device takes its framebuffers with it";
  calls.clear();
  buffers.clear();
  EXPECT_EQ(calls.count_framebuffers_ended(), 0U);
}

TEST(KmsImport, ARecycledDescriptorNumberFindsNoStaleImport) {
  const auto screen = configured("vkms");
  int number = -1;
  {
    const Buffer first = heap_buffer({1024, 768});
    number = first.fd(0);
    must(screen.plane->import(first));
  }
  const Buffer second = heap_buffer({1024, 768});
  ASSERT_EQ(second.fd(0), number) << "the number was not recycled, so this test tests nothing";
  const CountCalls imports("ioctl", DRM_IOCTL_PRIME_FD_TO_HANDLE);
  must(screen.plane->import(second));
  EXPECT_EQ(imports.calls(), 1U);
}

TEST(KmsImport, ADmaBufSmallerThanItsLayoutNeverReachesTheDisplay) {
  const Layout layout = *Layout::linear(formats::xrgb8888, {1024, 768});
  Fd memory = heap_memory(4096);
  EXPECT_TRUE(fails_with(Buffer::create(layout, memory, {}), EINVAL));
}

TEST(KmsImport, BuffersOtherThanConfiguredAreRefused) {
  const auto screen = configured("vkms");
  const auto wrong_size = dumb_buffers(*screen.device, 1, {640, 480});
  EXPECT_TRUE(fails_with(screen.plane->import(wrong_size[0]), EINVAL));
  const auto wrong_format = dumb_buffers(*screen.device, 1, {1024, 768}, formats::argb8888);
  EXPECT_TRUE(fails_with(screen.plane->import(wrong_format[0]), EINVAL));
  kms::Plane* const other = must(screen.output->plane());
  EXPECT_TRUE(fails_with(other->import(wrong_size[0]), EINVAL)) << "set_input() comes first";
}

TEST(KmsImport, LinearBuffersGoWithoutAModifierWhereTheDriverTakesNone) {
  struct Flags : sys::Hook {
    int before(const sys::Call& call) noexcept override {
      if (call.request == DRM_IOCTL_MODE_ADDFB2) flags = static_cast<const drm_mode_fb_cmd2*>(call.argument)->flags;
      return 0;
    }
    std::uint32_t flags = ~0U;
  };
  for (const std::string& driver : displays()) {
    const auto screen = configured(driver);
    const auto buffers = dumb_buffers(*screen.device);
    Flags hook;
    sys::set_hook(&hook);
    EXPECT_TRUE(screen.plane->import(buffers[0]));
    sys::set_hook(nullptr);
    EXPECT_EQ((hook.flags & DRM_MODE_FB_MODIFIERS) != 0, screen.device->takes_modifiers()) << driver;
  }
}

TEST(KmsImport, ImplicitNeverBecomesLinear) {
  const auto screen = configured("vkms");
  Layout layout = *Layout::linear(formats::xrgb8888, {1024, 768});
  layout.modifier = Modifier::implicit();
  Fd memory = heap_memory(layout.object_sizes()[0]);
  const Buffer buffer = must(Buffer::create(layout, memory, {}));
  EXPECT_TRUE(fails_with(screen.plane->import(buffer), EINVAL));
}

TEST(KmsImport, EveryFailingCallLeavesNothingBehind) {
  for (const std::string& driver : displays()) {
    const auto screen = configured(driver);
    for (std::size_t n = 1;; ++n) {
      ASSERT_LT(n, 200U);
      const LeakCheck leaks;
      Recorder calls;
      const auto buffers = dumb_buffers(*screen.device);
      calls.clear();
      calls.fail = [&](const Recorder::Entry&) { return calls.entries().size() == n ? ENOMEM : 0; };
      const bool worked = screen.plane->import(buffers[0]).has_value();
      const std::size_t made = calls.entries().size();
      const unsigned long failed = made < n ? 0 : calls.entries()[n - 1].request;
      calls.fail = nullptr;
      if (made < n) {
        EXPECT_TRUE(worked);
        break;
      }
      EXPECT_EQ(worked, failed == DRM_IOCTL_GEM_CLOSE) << driver << " call " << n;
      EXPECT_EQ(calls.count(DRM_IOCTL_GEM_CLOSE), failed == DRM_IOCTL_PRIME_FD_TO_HANDLE ? 0U : 1U) << n;
    }
  }
}

TEST(KmsAllocator, MemoryIsZeroed) {
  const auto device = must(kms::Device::open(card_path("virtio_gpu")));
  {  // used and freed, so that the kernel has it available for reuse
    auto dirty = dumb_buffers(*device, 4);
    (void)dirty;
  }
  for (const Buffer& buffer : dumb_buffers(*device, 4)) {
    std::vector<std::uint8_t> read(buffer.size(0));
    const auto mapping = sys::mmap(read.size(), 1 /* PROT_READ */, 1 /* MAP_SHARED */, buffer.fd(0), 0);
    ASSERT_EQ(mapping.error, 0);
    std::memcpy(read.data(), mapping.address, read.size());
    sys::munmap(mapping.address, read.size());
    EXPECT_TRUE(std::all_of(read.begin(), read.end(), [](std::uint8_t b) { return b == 0; }));
  }
}

TEST(KmsAllocator, KeepsNoHandle) {
  const LeakCheck leaks;
  const auto device = must(kms::Device::open(card_path("vkms")));
  Recorder calls;
  const auto buffers = dumb_buffers(*device, 5);
  EXPECT_EQ(calls.count(DRM_IOCTL_MODE_CREATE_DUMB), 5U);
  EXPECT_EQ(calls.count(DRM_IOCTL_GEM_CLOSE), 5U);
  for (const Buffer& buffer : buffers) EXPECT_TRUE(::fcntl(buffer.fd(0), F_GETFD) & FD_CLOEXEC);
}

TEST(KmsAllocator, PlanarFormatsFitTheirMemory) {
  const LeakCheck leaks;
  for (const std::string& driver : displays()) {
    const auto device = must(kms::Device::open(card_path(driver)));
    for (const PixelFormat format : {formats::nv12, formats::yuv420, formats::nv16, formats::yuyv, formats::rgb565,
                                     formats::rgb888, formats::r8, formats::p010}) {
      for (const Size size : {Size{640, 480}, Size{1922, 1082}, Size{2, 2}}) {
        const auto buffers = device->allocator()->allocate({.size = size, .format = format});
        ASSERT_TRUE(buffers) << driver << " " << format.name() << ": " << buffers.error().message();
        const Layout& layout = (*buffers)[0].layout();
        const std::array<std::uint64_t, 1> sizes = {(*buffers)[0].size(0)};
        EXPECT_TRUE(layout.validate(sizes)) << layout.describe();
      }
    }
  }
}

TEST(KmsAllocator, ConstraintsAreMetOrRefused) {
  const auto device = must(kms::Device::open(card_path("virtio_gpu")));
  Request request{.size = {1000, 500}, .format = formats::xrgb8888};
  request.constraints.min_stride[0] = 4352;
  request.constraints.stride_alignment = 256;
  const auto buffers = device->allocator()->allocate(request);
  ASSERT_TRUE(buffers) << buffers.error().message();
  EXPECT_GE((*buffers)[0].layout().planes[0].stride, 4352U);
  EXPECT_EQ((*buffers)[0].layout().planes[0].stride % 256, 0U);
  request.constraints.min_object_size[0] = 4'000'000;
  const auto larger = device->allocator()->allocate(request);
  ASSERT_TRUE(larger) << larger.error().message();
  EXPECT_GE((*larger)[0].size(0), 4'000'000U);
}

TEST(KmsAllocator, EveryFailingCallLeavesNothingBehind) {
  const auto device = must(kms::Device::open(card_path("bochs-drm")));
  for (std::size_t n = 1;; ++n) {
    ASSERT_LT(n, 200U);
    const LeakCheck leaks;
    Recorder calls;
    calls.fail = [&](const Recorder::Entry& entry) {
      return calls.entries().size() == n && entry.request != DRM_IOCTL_GEM_CLOSE ? ENOMEM : 0;
    };
    const auto buffers = device->allocator()->allocate({.size = {640, 480}, .format = formats::xrgb8888, .count = 3});
    if (calls.entries().size() < n) {
      EXPECT_TRUE(buffers);
      break;
    }
    if (!buffers) {
      EXPECT_EQ(buffers.error().code(), ENOMEM);
    }
  }
}

TEST(KmsAllocator, ImpossibleRequestsAreRefused) {
  const auto device = must(kms::Device::open(card_path("vkms")));
  Allocator& allocator = *device->allocator();
  EXPECT_TRUE(fails_with(allocator.allocate({.size = {0, 480}, .format = formats::xrgb8888}), EINVAL));
  EXPECT_TRUE(fails_with(allocator.allocate({.size = {640, 480}, .format = formats::xrgb8888, .count = 0}), EINVAL));
  EXPECT_TRUE(fails_with(allocator.allocate({.size = {640, 480}, .format = formats::xrgb8888, .count = 1000}), EINVAL));
  EXPECT_TRUE(
      fails_with(allocator.allocate({.size = {640, 480}, .format = formats::mjpeg, .opaque_bytes = 1000}), EINVAL));
  EXPECT_TRUE(fails_with(
      allocator.allocate({.size = {640, 480}, .format = formats::xrgb8888, .modifiers = {Modifier::implicit()}}),
      EINVAL));
}

}  // namespace
