// GBM on the lab's real drivers, with Mesa's software driver, which knows no modifiers and reports INVALID.
#include "allocator_checks.hpp"
#include "kms_support.hpp"
#include "screen_support.hpp"

#include <dmaflow/attachment.hpp>
#include <dmaflow/gbm.hpp>
#include <dmaflow/heap.hpp>
#include <dmaflow/udmabuf.hpp>
#include <dmaflow/v4l2.hpp>

#include <filesystem>
#include <set>
#include <thread>

#include <dlfcn.h>
#include <gbm.h>

namespace {
int bos_from_lists = 0;
}

// Counts the calls, and forwards them to libgbm.
extern "C" gbm_bo* gbm_bo_create_with_modifiers2(gbm_device* device, std::uint32_t width, std::uint32_t height,
                                                 std::uint32_t format, const std::uint64_t* modifiers, unsigned count,
                                                 std::uint32_t flags) {
  static const auto next =
      reinterpret_cast<decltype(&gbm_bo_create_with_modifiers2)>(dlsym(RTLD_NEXT, "gbm_bo_create_with_modifiers2"));
  ++bos_from_lists;
  return next(device, width, height, format, modifiers, count, flags);
}

namespace {

using namespace dmaflow;
using namespace dmaflow::test;

constexpr Size size_720p{1280, 720};

const std::vector<std::string>& cards() {
  static const std::vector<std::string> all = {"virtio_gpu", "bochs-drm", "vkms", "vgem"};
  return all;
}

std::unique_ptr<gbm::Device> open_card(const std::string& driver) {
  return must(gbm::Device::open(card_path(driver)), driver.c_str());
}

Request with_modifiers(std::vector<Modifier> modifiers, PixelFormat format = formats::xrgb8888) {
  Request request = request_of(format, size_720p);
  request.modifiers = std::move(modifiers);
  return request;
}

Buffer one(Allocator& allocator, const Request& request) { return must(allocator.allocate(request), "allocate")[0]; }

/// The number that the next handle of this file gets. The kernel uses the lowest free one: 1 if none is in use.
std::uint32_t next_handle(int fd, const Buffer& own_or_importable) {
  drm_prime_handle prime{.handle = 0, .flags = 0, .fd = own_or_importable.fd(0)};
  EXPECT_EQ(ioctl(fd, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime), 0);
  drm_gem_close close{.handle = prime.handle, .pad = 0};
  EXPECT_EQ(ioctl(fd, DRM_IOCTL_GEM_CLOSE, &close), 0);
  return prime.handle;
}

bool is_handle_alive(int fd, std::uint32_t handle) {
  drm_prime_handle prime{.handle = handle, .flags = DRM_CLOEXEC, .fd = -1};
  if (ioctl(fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime) != 0) return false;
  ::close(prime.fd);
  return true;
}

bool is_master(int fd) {
  drm_auth request{.magic = 0};
  return ioctl(fd, DRM_IOCTL_AUTH_MAGIC, &request) == 0 || errno != EACCES;
}

std::string render_node() {
  for (const auto& entry : std::filesystem::directory_iterator("/dev/dri")) {
    if (entry.path().filename().string().starts_with("renderD")) return entry.path().string();
  }
  return {};
}

// --- opening ---------------------------------------------------------------------------------------------------------

TEST(GbmOpen, EveryPrimaryNodeWorksAndSaysWhatItIs) {
  for (const std::string& driver : cards()) {
    const LeakCheck leaks;
    const auto device = open_card(driver);
    EXPECT_EQ(device->driver(), driver);
    EXPECT_EQ(device->name(), card_path(driver) + " (" + driver + ")");
    EXPECT_EQ(device->backend(), "drm");
    EXPECT_NE(device->get(), nullptr);
    const auto formats = must(device->formats());
    const auto xrgb = std::ranges::find(formats, formats::xrgb8888, &gbm::FormatUse::format);
    ASSERT_NE(xrgb, formats.end());
    EXPECT_TRUE(xrgb->scanout && xrgb->render && xrgb->linear);
    EXPECT_EQ(must(device->plane_count(formats::xrgb8888, Modifier::linear())), 1U);
    EXPECT_TRUE(fails_with(device->plane_count(formats::xrgb8888, Modifier::from_value(0x0100000000000001)), EINVAL));
  }
}

TEST(GbmOpen, WithoutAPathTheFirstNodeThatWorksIsTaken) {
  const LeakCheck leaks;
  EXPECT_TRUE(must(gbm::Device::open())->name().starts_with("/dev/dri/card0 "));
}

TEST(GbmOpen, ANodeOnWhichNothingCanBeAllocatedIsPassedOverWithItsReason) {
  const LeakCheck leaks;
  const auto directory = std::filesystem::temp_directory_path() / ("gbm-nodes-" + std::to_string(getpid()));
  std::filesystem::create_directory(directory);
  std::filesystem::create_symlink("/dev/null", directory / "card0");
  std::filesystem::create_symlink(render_node(), directory / "renderD128");
  const auto none = gbm::Device::open({}, {.directory = directory});
  observe("GBM allocates on a render node", none.has_value(), "docs/gbm.md");
  if (none) std::filesystem::remove_all(directory);
  if (none) GTEST_SKIP() << "the render node is as good as a primary node here";
  EXPECT_TRUE(fails_with(none, ENODEV));
  EXPECT_TRUE(mentions(none.error(), "card0: DRM_IOCTL_VERSION ENOTTY")) << none.error().message();
  EXPECT_TRUE(mentions(none.error(), "renderD128: gbm_bo_create E")) << none.error().message();
  std::filesystem::create_symlink(card_path("vgem"), directory / "card7");
  EXPECT_EQ(must(gbm::Device::open({}, {.directory = directory}))->driver(), "vgem");
  std::filesystem::remove_all(directory);
}

TEST(GbmOpen, WhatIsNoSuchNodeSaysSo) {
  const LeakCheck leaks;
  EXPECT_TRUE(fails_with(gbm::Device::open("/dev/null"), ENOTTY));
  const auto missing = gbm::Device::open("/dev/dri/card99");
  EXPECT_TRUE(fails_with(missing, ENOENT));
  EXPECT_TRUE(mentions(missing.error(), "/dev/dri/card0, ")) << missing.error().message();
  EXPECT_TRUE(mentions(missing.error(), "renderD128")) << missing.error().message();
  const std::string said = as_user(1000, {1000}, [] {
    const auto refused = gbm::Device::open("/dev/dri/card0");
    return refused ? std::string("opened") : refused.error().message();
  });
  EXPECT_NE(said.find("EACCES"), std::string::npos) << said;
  EXPECT_NE(said.find("group video"), std::string::npos) << said;
}

TEST(GbmOpen, ARenderNodeOpensAndItsRefusalNamesThePrimaryNode) {
  const LeakCheck leaks;
  const auto device = must(gbm::Device::open(render_node()));
  const auto refused = device->allocator().allocate(with_modifiers({Modifier::linear(), Modifier::implicit()}));
  if (refused) GTEST_SKIP() << "the render node allocates";
  EXPECT_TRUE(fails_with(refused, EACCES));
  EXPECT_TRUE(mentions(refused.error(), "primary node")) << refused.error().message();
}

TEST(GbmOpen, TheDisplayIsLeftToWhoWantsToBeItsMaster) {
  const LeakCheck leaks;
  for (const std::string& driver : displays()) {
    const auto first = open_card(driver);
    EXPECT_FALSE(is_master(first->fd()));
    const auto display = kms::Device::open(card_path(driver));
    ASSERT_TRUE(display) << display.error().message();
    EXPECT_TRUE(is_master((*display)->fd()));
  }
}

TEST(GbmOpen, ARunningDisplayKeepsItsMastership) {
  const LeakCheck leaks;
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}, {}, 4));
    must(screen.show());
    {
      const auto device = open_card(driver);
      EXPECT_FALSE(is_master(device->fd()));
      EXPECT_TRUE(is_master(screen.device->fd()));
      (void)one(device->allocator(), with_modifiers({Modifier::linear()}));
      must(screen.show(), "while GBM is at work");
    }
    must(screen.show(), "after GBM has gone");
    EXPECT_FALSE(screen.device->paused());
  }
}

TEST(GbmOpen, EveryFailingCallLeavesNothingBehind) {
  const std::string path = card_path("vkms");
  for (std::size_t n = 1;; ++n) {
    ASSERT_LT(n, 50U);
    const LeakCheck leaks;
    const FailNth fail(n, EIO);
    const bool worked = gbm::Device::open(path).has_value();
    if (!fail.fired()) {
      EXPECT_TRUE(worked);
      EXPECT_GT(n, 4U);
      break;
    }
  }
  // Whichever call failed, mastership was not kept.
  EXPECT_TRUE(is_master(must(kms::Device::open(path))->fd()));
}

// --- allocating ------------------------------------------------------------------------------------------------------

TEST(GbmAllocator, BuffersAreWhatWasAskedForAndWritable) {
  for (const std::string& driver : cards()) {
    const LeakCheck leaks;
    const auto device = open_card(driver);
    for (const PixelFormat format : {formats::xrgb8888, formats::argb8888}) {
      Request request = with_modifiers({Modifier::linear()}, format);
      request.count = 3;
      request.usage = {.scanout = true, .render = true};
      const auto buffers = must(device->allocator().allocate(request), driver.c_str());
      ASSERT_EQ(buffers.size(), 3U);
      std::set<ObjectId> ids;
      for (const Buffer& buffer : buffers) {
        EXPECT_EQ(buffer.layout().size, size_720p);
        EXPECT_EQ(buffer.layout().format, format);
        EXPECT_EQ(buffer.layout().modifier, Modifier::linear());
        EXPECT_EQ(buffer.object_count(), 1U);
        EXPECT_EQ(buffer.origin(), "gbm");
        EXPECT_TRUE(ids.insert(buffer.id(0)).second);
        EXPECT_EQ(::fcntl(buffer.fd(0), F_GETFL) & O_ACCMODE, O_RDWR);
        EXPECT_EQ(::fcntl(buffer.fd(0), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        paint(buffer, {1, 2, 3, 4});  // the bo is destroyed; the memory remains
      }
    }
  }
}

TEST(GbmAllocator, InvalidIsCarriedAsImplicitAndLinearOnlyWhereGbmWasToldSo) {
  const Modifier tiled = Modifier::from_value(0x0100000000000001);  // I915_FORMAT_MOD_X_TILED
  const Modifier linear = Modifier::linear();
  const Modifier implicit = Modifier::implicit();
  for (const std::string& driver : cards()) {
    const LeakCheck leaks;
    const auto device = open_card(driver);
    const auto made = [&](std::vector<Modifier> modifiers) {
      return one(device->allocator(), with_modifiers(std::move(modifiers))).layout().modifier;
    };
    EXPECT_EQ(made({linear}), linear) << driver;
    EXPECT_EQ(made({implicit}), implicit) << driver;
    EXPECT_EQ(made({implicit, linear}), implicit) << "the order is the caller's";
    EXPECT_EQ(made({linear, implicit}), linear);
    EXPECT_EQ(made({tiled, implicit}), implicit);
    EXPECT_EQ(made({tiled, linear}), linear);
    const auto refused = device->allocator().allocate(with_modifiers({tiled}));
    EXPECT_TRUE(fails_with(refused, EINVAL));
    EXPECT_TRUE(mentions(refused.error(), "0x0100000000000001")) << refused.error().message();
    EXPECT_TRUE(mentions(refused.error(), driver)) << refused.error().message();
  }
}

bool answers_lists_with_invalid(gbm::Device& device) {
  const std::uint64_t linear = Modifier::linear().value();
  const std::unique_ptr<gbm_bo, void (*)(gbm_bo*)> bo(
      gbm_bo_create_with_modifiers2(device.get(), 64, 64, GBM_FORMAT_XRGB8888, &linear, 1, 0), gbm_bo_destroy);
  return bo && gbm_bo_get_modifier(bo.get()) == Modifier::implicit().value();
}

TEST(GbmAllocator, AListThatTheDriverAnswersWithInvalidIsTriedOnceForAllBuffers) {
  int answered = 0;
  for (const std::string& driver : cards()) {
    const auto device = open_card(driver);
    const bool is_invalid = answers_lists_with_invalid(*device);
    observe("GBM on " + driver + " answers a list of modifiers with INVALID", is_invalid, "docs/gbm.md");
    if (!is_invalid) continue;
    ++answered;
    Request request = with_modifiers({Modifier::linear()});
    request.count = 4;
    bos_from_lists = 0;
    EXPECT_EQ(must(device->allocator().allocate(request), driver.c_str()).size(), 4U);
    EXPECT_EQ(must(device->allocator().allocate(request), driver.c_str()).size(), 4U);
    EXPECT_EQ(bos_from_lists, 1) << driver;
    // A different usage is checked separately.
    request.usage = {.scanout = true, .render = true};
    EXPECT_EQ(must(device->allocator().allocate(request), driver.c_str()).size(), 4U);
    EXPECT_EQ(bos_from_lists, 2) << driver;
  }
  if (answered == 0) GTEST_SKIP() << "every driver here states modifiers";
}

TEST(GbmAllocator, AnImplicitBufferIsTakenByNoDeviceThatWantsLinear) {
  const auto device = open_card("vkms");
  const Buffer buffer = one(device->allocator(), with_modifiers({Modifier::implicit()}));
  const auto display = must(kms::Device::open(card_path("vkms")));
  kms::Plane* const plane = must(must(display->output())->plane());
  must(plane->set_input(stream_of(size_720p)));
  EXPECT_TRUE(fails_with(plane->import(buffer), EINVAL));
}

TEST(GbmAllocator, EveryUsageIsTaken) {
  const auto device = open_card("virtio_gpu");
  for (const Usage usage : {Usage{}, Usage{.capture = true}, Usage{.scanout = true}, Usage{.render = true},
                            Usage{.cpu = true}, Usage{.capture = true, .scanout = true, .render = true, .cpu = true}}) {
    for (const Modifier modifier : {Modifier::linear(), Modifier::implicit()}) {
      Request request = with_modifiers({modifier});
      request.usage = usage;
      EXPECT_TRUE(device->allocator().allocate(request));
    }
  }
}

TEST(GbmAllocator, FormatsThatTheDriverLacksAreRefusedInWords) {
  for (const std::string& driver : cards()) {
    const LeakCheck leaks;
    const auto device = open_card(driver);
    const auto known = must(device->formats());
    const bool knows_nv12 = std::ranges::find(known, formats::nv12, &gbm::FormatUse::format) != known.end();
    observe("GBM on " + driver + " knows NV12", knows_nv12, "docs/gbm.md");
    if (!knows_nv12) {
      const auto nv12 = device->allocator().allocate(with_modifiers({Modifier::linear()}, formats::nv12));
      EXPECT_TRUE(fails_with(nv12, EINVAL));
      EXPECT_TRUE(mentions(nv12.error(), "NV12") && mentions(nv12.error(), "does not know this format"))
          << nv12.error().message();
    }
    // virtio-gpu reports R8, but creates only buffers of 32 bits per pixel.
    const auto r8 = device->allocator().allocate(with_modifiers({Modifier::linear()}, formats::r8));
    observe("GBM on " + driver + " makes R8", r8.has_value(), "docs/gbm.md");
    if (r8) continue;
    EXPECT_TRUE(fails_with(r8, EINVAL));
    EXPECT_TRUE(mentions(r8.error(), "the driver makes none") || mentions(r8.error(), "does not know this format"))
        << r8.error().message();
  }
}

TEST(GbmAllocator, ConstraintsAreMet) {
  const LeakCheck leaks;
  for (const std::string& driver : cards()) {
    const auto device = open_card(driver);
    Request request = request_of(formats::xrgb8888, {1000, 500});
    request.constraints.min_stride[0] = 5000;
    request.constraints.stride_alignment = 4096;
    request.constraints.offset_alignment = 4096;
    request.constraints.min_object_size[0] = 9'000'000;
    request.constraints.size_alignment = 4096;
    request.constraints.separate_objects = true;
    const Buffer buffer = one(device->allocator(), request);
    EXPECT_EQ(buffer.layout().size, request.size);
    EXPECT_GE(buffer.layout().planes[0].stride, 5000U);
    EXPECT_EQ(buffer.layout().planes[0].stride % 4096, 0U);
    EXPECT_GE(buffer.size(0), 9'000'000U);
    paint(buffer, {1, 2, 3, 4});
  }
}

TEST(GbmAllocator, ConstraintsThatCannotBeMetAreRefused) {
  const LeakCheck leaks;
  const auto device = open_card("vgem");
  const auto refused = [&](const Request& request, std::string_view words) {
    const auto result = device->allocator().allocate(request);
    ASSERT_TRUE(fails_with(result, EINVAL));
    EXPECT_TRUE(mentions(result.error(), words)) << result.error().message();
    EXPECT_TRUE(mentions(result.error(), "vgem")) << result.error().message();
  };
  Request contiguous = with_modifiers({Modifier::linear()});
  contiguous.constraints.contiguous = true;
  refused(contiguous, "contiguous");
  Request odd = with_modifiers({Modifier::linear()});
  odd.constraints.stride_alignment = 3;
  refused(odd, "powers of two");
  Request wide = with_modifiers({Modifier::linear()});
  wide.constraints.min_stride[0] = 1'000'000'000;
  refused(wide, "rows of 5120 bytes");
  Request implicit = with_modifiers({Modifier::implicit()});  // a wider one may have another tiling
  implicit.constraints.min_stride[0] = 8192;
  refused(implicit, "rows of 5120 bytes");
}

TEST(GbmAllocator, ImpossibleRequestsAreRefused) {
  const LeakCheck leaks;
  const auto device = open_card("vkms");
  const auto refused = [&](const Request& request, std::string_view words) {
    const auto result = device->allocator().allocate(request);
    ASSERT_TRUE(fails_with(result, EINVAL));
    EXPECT_TRUE(mentions(result.error(), words)) << result.error().message();
  };
  refused(request_of(formats::xrgb8888, {0, 0}), "0x0");
  refused(request_of(formats::xrgb8888, {16385, 16}), "16384");
  refused(request_of(formats::xrgb8888, {640, 480}, 0), "0 buffers");
  refused(request_of(formats::xrgb8888, {640, 480}, 1000), "1000 buffers");
  refused(request_of(PixelFormat::of('Z', 'Z', 'Z', 'Z'), {640, 480}), "formats");
  Request opaque = request_of(formats::mjpeg, {640, 480});
  opaque.opaque_bytes = 1000;
  refused(opaque, "rows");
  refused(with_modifiers({}), "no modifier");
}

TEST(GbmAllocator, KeepsNoHandle) {
  for (const std::string& driver : cards()) {
    const LeakCheck leaks;
    const auto device = open_card(driver);
    Request request = with_modifiers({Modifier::linear()});
    request.count = 5;
    const auto buffers = must(device->allocator().allocate(request));
    EXPECT_EQ(next_handle(device->fd(), buffers[0]), 1U) << driver << ": a handle was left";
    request.format = formats::nv12;
    (void)device->allocator().allocate(request);
    EXPECT_EQ(next_handle(device->fd(), buffers[0]), 1U) << driver << ": a refused request left a handle";
  }
}

TEST(GbmAllocator, EveryFailingCallLeavesNothingBehind) {
  const auto device = open_card("bochs-drm");
  const Buffer probe = one(device->allocator(), with_modifiers({Modifier::linear()}));
  Request request = with_modifiers({Modifier::linear()});
  request.count = 3;
  std::size_t failures = 0;
  for (std::size_t n = 1;; ++n) {
    ASSERT_LT(n, 100U);
    const LeakCheck leaks;
    std::size_t made = 0;
    {
      Recorder calls;
      calls.fail = [&](const Recorder::Entry&) { return calls.entries().size() == n ? EIO : 0; };
      const auto result = device->allocator().allocate(request);
      made = calls.entries().size();
      const bool is_close = made >= n && calls.entries()[n - 1].name == "close";
      EXPECT_EQ(result.has_value(), made < n || is_close) << "call " << n;
      if (!result) ++failures;
      if (!result) {
        EXPECT_EQ(result.error().code(), EIO) << result.error().message();
      }
    }
    EXPECT_EQ(next_handle(device->fd(), probe), 1U) << "call " << n << " left a handle";
    if (made < n) break;
  }
  EXPECT_GE(failures, 12U);  // an export and the checks of Buffer::create, three times each
}

TEST(GbmAllocator, BuffersOutliveTheirDevice) {
  const LeakCheck leaks;
  std::vector<Buffer> buffers;
  {
    const auto device = open_card("virtio_gpu");
    buffers = must(device->allocator().allocate(with_modifiers({Modifier::linear()})));
    device->detach();
    EXPECT_TRUE(fails_with(device->allocator().allocate(with_modifiers({Modifier::linear()})), ENODEV));
    EXPECT_TRUE(fails_with(device->formats(), ENODEV));
    EXPECT_TRUE(fails_with(device->import(buffers[0]), ENODEV));
    EXPECT_EQ(device->get(), nullptr);
  }
  paint(buffers[0], {1, 2, 3, 4});
}

// --- importing -------------------------------------------------------------------------------------------------------

TEST(GbmImport, BuffersOfOthersAreTakenOrRefusedInWords) {
  const auto heap = must(heap::Allocator::open("system"));
  const auto udmabuf = must(udmabuf::Allocator::open());
  for (const std::string& driver : cards()) {
    const LeakCheck leaks;
    const auto device = open_card(driver);
    for (Allocator* from : {static_cast<Allocator*>(heap.get()), static_cast<Allocator*>(udmabuf.get())}) {
      const Buffer buffer = one(*from, with_modifiers({Modifier::linear()}));
      const auto bo = device->import(buffer);
      observe("GBM on " + driver + " imports memory of " + std::string(from->name()), bo ? "yes" : outcome(bo.error()),
              "docs/gbm.md");
      if (bo) {
        EXPECT_EQ(gbm_bo_get_width(*bo), 1280U);
        EXPECT_EQ(gbm_bo_get_stride(*bo), buffer.layout().planes[0].stride);
      } else {
        EXPECT_EQ(bo.error().operation(), "DRM_IOCTL_PRIME_FD_TO_HANDLE");
        EXPECT_TRUE(mentions(bo.error(), "memory made elsewhere")) << bo.error().message();
      }
    }
    const Buffer own = one(device->allocator(), with_modifiers({Modifier::linear()}));
    EXPECT_TRUE(device->import(own)) << driver;
    if (driver == "vgem") continue;  // not a display, so it has no dumb buffers of kms::Device
    const auto display = must(kms::Device::open(card_path(driver)));
    const Buffer dumb = one(*display->allocator(), with_modifiers({Modifier::linear()}));
    EXPECT_TRUE(device->import(dumb)) << driver;
  }
}

TEST(GbmImport, IsMadeOnceAndFoundAgainWithoutASystemCall) {
  const LeakCheck leaks;
  const auto device = open_card("vkms");
  const Buffer buffer = one(device->allocator(), with_modifiers({Modifier::linear()}));
  const auto bo = must(device->import(buffer));
  const CountCalls calls;
  EXPECT_EQ(must(device->import(buffer)), bo);
  EXPECT_EQ(calls.calls(), 0U);
}

TEST(GbmImport, ImplicitBuffersGoWithoutAModifier) {
  const LeakCheck leaks;
  for (const std::string& driver : cards()) {
    const auto device = open_card(driver);
    const Buffer buffer = one(device->allocator(), with_modifiers({Modifier::implicit()}));
    const auto bo = must(device->import(buffer), driver.c_str());
    EXPECT_EQ(Modifier::from_value(gbm_bo_get_modifier(bo)), Modifier::implicit());
  }
}

TEST(GbmImport, TheBoEndsWithItsBufferOrItsDevice) {
  const LeakCheck leaks;
  auto device = open_card("vkms");
  const Buffer probe = one(device->allocator(), with_modifiers({Modifier::linear()}));
  std::vector<Buffer> buffers = must(device->allocator().allocate([] {
    Request request = with_modifiers({Modifier::linear()});
    request.count = 3;
    return request;
  }()));
  std::set<std::uint32_t> handles;
  for (const Buffer& buffer : buffers) handles.insert(gbm_bo_get_handle(must(device->import(buffer))).u32);
  EXPECT_EQ(handles, (std::set<std::uint32_t>{1, 2, 3}));
  std::thread([&] { buffers.erase(buffers.begin()); }).join();  // in any thread
  EXPECT_EQ(next_handle(device->fd(), probe), 1U) << "the first buffer's handle is free again";
  EXPECT_TRUE(is_handle_alive(device->fd(), 2) && is_handle_alive(device->fd(), 3));
  device.reset();
  EXPECT_EQ(buffers.size(), 2U);
  paint(buffers[1], {1, 2, 3, 4});
}

TEST(GbmImport, TwoBuffersOfOneDmaBufEndOneByOne) {
  const LeakCheck leaks;
  const auto device = open_card("vkms");
  const Buffer first = one(device->allocator(), with_modifiers({Modifier::linear()}));
  Fd again = must(Fd::dup_of(first.fd(0)));
  Buffer second = must(Buffer::create(first.layout(), again, {}));
  const std::uint32_t handle = gbm_bo_get_handle(must(device->import(first))).u32;
  EXPECT_EQ(gbm_bo_get_handle(must(device->import(second))).u32, handle);
  second = {};
  EXPECT_TRUE(is_handle_alive(device->fd(), handle)) << "the first buffer's bo lost its handle";
}

TEST(GbmImport, WhatGbmRefusesLeavesNoHandleAndTheBufferAsItWas) {
  const LeakCheck leaks;
  const auto heap = must(heap::Allocator::open("system"));
  for (const std::string driver : {"vkms", "vgem"}) {
    const auto device = open_card(driver);
    const Buffer probe = one(device->allocator(), with_modifiers({Modifier::linear()}));
    const auto refused = [&](const Buffer& buffer, std::string_view words) {
      const auto bo = device->import(buffer);
      ASSERT_FALSE(bo) << buffer.layout().describe();
      EXPECT_EQ(bo.error().operation(), "gbm_bo_import");
      EXPECT_TRUE(mentions(bo.error(), words)) << bo.error().message();
      EXPECT_EQ(next_handle(device->fd(), probe), 1U) << "a handle was left";
      paint(buffer, {1, 2, 3, 4});
    };
    refused(one(*heap, with_modifiers({Modifier::linear()}, formats::nv12)), "does not know this format");
    Layout layout = *Layout::linear(formats::xrgb8888, size_720p);
    layout.modifier = Modifier::from_value(0x0100000000000001);
    Fd memory = must(Fd::dup_of(probe.fd(0)));
    refused(must(Buffer::create(layout, memory, {.is_protected = false, .origin = "test"})), "0x0100000000000001");
    // It fits its dma-buf up to the last pixel, but not to the end of the last row, which GBM requires.
    layout = *Layout::linear(formats::xrgb8888, size_720p, {.min_stride = {12288}});
    Fd small = must(Fd::dup_of(one(*heap,
                                   [] {
                                     Request request = request_of(formats::r8, {1, 1});
                                     request.constraints.min_object_size[0] = 719 * 12288 + 5120;
                                     return request;
                                   }())
                                   .fd(0)));
    refused(must(Buffer::create(layout, small, {.is_protected = false, .origin = "test"})), "takes no buffer like it");
  }
}

TEST(GbmImport, WhatIsNoBufferNeverReachesGbmAndStaysTheCallers) {
  const LeakCheck leaks;
  const auto device = open_card("vkms");
  const Layout layout = *Layout::linear(formats::xrgb8888, size_720p);
  Fd file = Fd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_TRUE(fails_with(Buffer::create(layout, file, {}), EINVAL));
  EXPECT_TRUE(file);
  Fd small = must(Fd::dup_of(one(device->allocator(), request_of(formats::xrgb8888, {64, 64})).fd(0)));
  EXPECT_TRUE(fails_with(Buffer::create(layout, small, {}), EINVAL));
  EXPECT_EQ(::fcntl(small.get(), F_GETFD), FD_CLOEXEC) << "closed";
  Fd closed = Fd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ::close(closed.get());
  EXPECT_TRUE(fails_with(Buffer::create(layout, closed, {}), EBADF));
  (void)closed.release();
}

TEST(GbmImport, EveryFailingCallLeavesNothingBehind) {
  const auto device = open_card("vkms");
  const Buffer probe = one(device->allocator(), with_modifiers({Modifier::linear()}));
  for (std::size_t n = 1;; ++n) {
    ASSERT_LT(n, 20U);
    const LeakCheck leaks;
    std::size_t made = 0;
    {
      const Buffer buffer = one(device->allocator(), with_modifiers({Modifier::linear()}));
      Recorder calls;
      calls.fail = [&](const Recorder::Entry&) { return calls.entries().size() == n ? EIO : 0; };
      const auto bo = device->import(buffer);
      made = calls.entries().size();
      EXPECT_EQ(bo.has_value(), made < n) << "call " << n;
    }
    EXPECT_EQ(next_handle(device->fd(), probe), 1U) << "call " << n << " left a handle";
    if (made < n) {
      EXPECT_GE(n, 2U);
      break;
    }
  }
}

// --- one DRM file, shared --------------------------------------------------------------------------------------------

struct GbmDestroy {
  void operator()(gbm_device* device) const { gbm_device_destroy(device); }
};
using GbmPointer = std::unique_ptr<gbm_device, GbmDestroy>;

/// A display, and a GBM device on the display's own file.
struct Shared {
  std::unique_ptr<kms::Device> display;
  kms::Plane* plane = nullptr;
  GbmPointer raw;
  std::unique_ptr<gbm::Device> gbm;

  static Shared open(const std::string& driver, bool with_own_registry = false) {
    Shared shared;
    shared.display = must(kms::Device::open(card_path(driver)));
    shared.plane = must(must(shared.display->output())->plane());
    must(shared.plane->set_input(stream_of({1024, 768})));
    shared.raw.reset(gbm_create_device(shared.display->fd()));
    const auto gem = with_own_registry ? GemRegistry::create(shared.display->fd()) : shared.display->gem();
    shared.gbm = must(gbm::Device::adopt(shared.raw.get(), gem));
    return shared;
  }
  [[nodiscard]] Buffer buffer() const { return one(gbm->allocator(), request_of(formats::xrgb8888, {1024, 768})); }
};

TEST(GbmShared, NeitherSideClosesAHandleUnderTheOthersFeet) {
  for (const std::string driver : {"vkms", "virtio_gpu"}) {
    for (const bool gbm_first : {true, false}) {
      const LeakCheck leaks;
      const auto shared = Shared::open(driver);
      EXPECT_TRUE(is_master(shared.display->fd())) << "an adopted device keeps what it had";
      Buffer buffer = shared.buffer();
      const Buffer probe = shared.buffer();
      if (!gbm_first) must(shared.plane->import(buffer));
      const std::uint32_t handle = gbm_bo_get_handle(must(shared.gbm->import(buffer))).u32;
      if (gbm_first) must(shared.plane->import(buffer));
      EXPECT_TRUE(is_handle_alive(shared.display->fd(), handle)) << driver;
      {  // another buffer with the same dma-buf, which only the display imports
        Fd again = must(Fd::dup_of(buffer.fd(0)));
        const Buffer other = must(Buffer::create(buffer.layout(), again, {}));
        must(shared.plane->import(other));
      }
      EXPECT_TRUE(is_handle_alive(shared.display->fd(), handle)) << driver;
      buffer = {};
      EXPECT_EQ(next_handle(shared.display->fd(), probe), 1U) << driver << ": a handle was left";
    }
  }
}

TEST(GbmShared, EitherDeviceMayGoFirst) {
  for (const bool display_first : {true, false}) {
    const LeakCheck leaks;
    auto shared = Shared::open("vkms");
    const Buffer buffer = shared.buffer();
    must(shared.plane->import(buffer));
    const std::uint32_t handle = gbm_bo_get_handle(must(shared.gbm->import(buffer))).u32;
    if (display_first) {
      // The display owns the file. Whoever shares it must first release everything that needs the file.
      shared.gbm->detach();
      shared.raw.reset();
      shared.display.reset();
      EXPECT_TRUE(fails_with(shared.gbm->import(buffer), ENODEV));
    } else {
      shared.gbm.reset();
      EXPECT_FALSE(is_handle_alive(shared.display->fd(), handle)) << "the bo went with its device";
      must(shared.plane->import(buffer), "the display's own is untouched");
      Screen::soon();
    }
    paint(buffer, {1, 2, 3, 4});
  }
}

TEST(GbmShared, WithoutTheSharedRegistryTheHandleIsClosed) {
  const auto shared = Shared::open("vkms", true);
  const Buffer buffer = shared.buffer();
  const std::uint32_t handle = gbm_bo_get_handle(must(shared.gbm->import(buffer))).u32;
  EXPECT_TRUE(is_handle_alive(shared.display->fd(), handle));
  must(shared.plane->import(buffer));
  EXPECT_FALSE(is_handle_alive(shared.display->fd(), handle)) << "so the tests above would not see it";
}

TEST(GbmShared, AHandleTheProgramKeepsIsNotGivenToGbmWhichWouldCloseIt) {
  const LeakCheck leaks;
  const auto shared = Shared::open("vkms");
  const Buffer buffer = shared.buffer();
  drm_prime_handle prime{.handle = 0, .flags = 0, .fd = buffer.fd(0)};
  ASSERT_EQ(ioctl(shared.display->fd(), DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime), 0);
  shared.display->keep_handle(prime.handle);
  const auto refused = shared.gbm->import(buffer);
  EXPECT_TRUE(fails_with(refused, EBUSY));
  EXPECT_TRUE(mentions(refused.error(), "file of its own")) << refused.error().message();
  EXPECT_TRUE(is_handle_alive(shared.display->fd(), prime.handle));
  shared.display->forget_handle(prime.handle);
  EXPECT_TRUE(shared.gbm->import(buffer)) << "GBM closes the handle now";
}

TEST(GbmShared, ASecondGbmDeviceOnTheFileIsKeptFromTheFirstOnesHandles) {
  const LeakCheck leaks;
  const auto shared = Shared::open("vkms");
  const Buffer buffer = shared.buffer();
  must(shared.gbm->import(buffer));
  const GbmPointer raw(gbm_create_device(shared.display->fd()));
  const auto second = must(gbm::Device::adopt(raw.get(), shared.display->gem()));
  EXPECT_TRUE(fails_with(second->import(buffer), EBUSY));
  const auto third = must(gbm::Device::adopt(shared.raw.get(), shared.display->gem()));
  EXPECT_TRUE(third->import(buffer)) << "the same gbm_device counts for itself";
}

TEST(GbmShared, AdoptingNeedsADeviceAndItsRegistry) {
  const LeakCheck leaks;
  const auto shared = Shared::open("vkms");
  EXPECT_TRUE(fails_with(gbm::Device::adopt(nullptr, shared.display->gem()), EINVAL));
  EXPECT_TRUE(fails_with(gbm::Device::adopt(shared.raw.get(), nullptr), EINVAL));
  EXPECT_EQ(shared.gbm->fd(), shared.display->fd());
  EXPECT_EQ(shared.gbm->gem(), shared.display->gem());
}

TEST(GbmShared, ThreadsThatImportOnBothSidesLeaveNoHandle) {
  const LeakCheck leaks;
  const auto shared = Shared::open("vkms");
  const Buffer probe = shared.buffer();
  std::thread gbm_side([&] {
    for (int round = 0; round < 200; ++round) {
      Fd again = must(Fd::dup_of(probe.fd(0)));
      const Buffer buffer = must(Buffer::create(probe.layout(), again, {}));
      const std::uint32_t handle = gbm_bo_get_handle(must(shared.gbm->import(buffer))).u32;
      EXPECT_TRUE(is_handle_alive(shared.display->fd(), handle)) << "round " << round;
    }
  });
  for (int round = 0; round < 200; ++round) {
    Fd again = must(Fd::dup_of(probe.fd(0)));
    const Buffer buffer = must(Buffer::create(probe.layout(), again, {}));
    must(shared.plane->import(buffer));
  }
  gbm_side.join();
  EXPECT_EQ(next_handle(shared.display->fd(), probe), 1U);
}

// --- imports by other devices ----------------------------------------------------------------------------------------

TEST(GbmScreen, WhatIsWrittenToGbmsMemoryIsWhatIsSeen) {
  for (const auto& [driver, display] : {std::pair{"virtio_gpu", "virtio"}, std::pair{"bochs-drm", "bochs"}}) {
    const auto device = open_card(driver);
    Request request = with_modifiers({Modifier::linear()});
    request.count = 4;
    request.usage = {.scanout = true, .cpu = true};
    Screen screen;
    screen.device = must(kms::Device::open(card_path(driver)));
    screen.output = must(screen.device->output());
    screen.plane = must(screen.output->plane());
    must(screen.plane->set_input(stream_of(size_720p)));
    screen.buffers = must(device->allocator().allocate(request));
    must(screen.plane->start(screen.buffers), driver);
    screen.holds = must(HoldSet::create(screen.buffers));
    screen.free = {1, 0};
    const std::array<std::array<std::uint32_t, 4>, 2> pictures = {
        {{0xff0000, 0x00ff00, 0x0000ff, 0xffff00}, {0x102030, 0x405060, 0x708090, 0xa0b0c0}}};
    for (std::size_t i = 0; i < 2; ++i) {
      paint(screen.buffers[i], pictures[i]);
      must(screen.show());
      EXPECT_EQ(look(display, "1,1 1278,1 1,718 1278,718"),
                i == 0 ? "1280x720\nff0000\n00ff00\n0000ff\nffff00\n" : "1280x720\n102030\n405060\n708090\na0b0c0\n")
          << driver;
    }
  }
}

TEST(GbmScreen, MemoryThatADisplayMovesIsFoundWhoeverMadeIt) {
  for (const std::string& driver : displays()) {
    const LeakCheck leaks;
    const auto device = open_card(driver);
    auto display = must(kms::Device::open(card_path(driver)));
    kms::Plane* plane = must(must(display->output())->plane());
    must(plane->set_input(stream_of(size_720p)));
    const Buffer buffer = one(device->allocator(), with_modifiers({Modifier::linear()}));
    EXPECT_FALSE(plane->moves(buffer)) << "nothing was tried yet";
    must(plane->import(buffer), driver.c_str());
    const bool moves = plane->moves(buffer);
    observe(driver + " moves the memory that it shows", moves, "docs/kms.md");
    // The display's own memory is moved just as GBM's is.
    display.reset();
    display = must(kms::Device::open(card_path(driver)));
    plane = must(must(display->output())->plane());
    must(plane->set_input(stream_of(size_720p)));
    const Buffer own = one(*display->allocator(), with_modifiers({Modifier::linear()}));
    must(plane->import(own), driver.c_str());
    EXPECT_EQ(plane->moves(own), moves) << driver;
  }
}

TEST(GbmCamera, ACameraWritesToWhatItsConstraintsAskOfGbm) {
  const LeakCheck leaks;
  for (const std::string driver : {"virtio_gpu", "vgem"}) {
    const auto device = open_card(driver);
    const auto camera = must(v4l2::Camera::open("/dev/video0"));
    StreamConfig config = stream_of(size_720p);
    must(camera->set_output(config));
    Request request = with_modifiers({Modifier::linear()});
    request.usage = {.capture = true};
    request.constraints = camera->output().constraints;
    const Buffer buffer = one(device->allocator(), request);
    const auto taken = camera->try_output(buffer);
    EXPECT_TRUE(taken) << driver << ": " << taken.error().message();
  }
}

}  // namespace
