#include "allocator_checks.hpp"

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/heap.hpp>

#include <algorithm>
#include <memory>
#include <string>

#include <fcntl.h>
#include <linux/dma-heap.h>
#include <sys/ioctl.h>

namespace dmaflow {
namespace {

using test::must;
using test::request_of;

class Heap : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = heap::Allocator::open("system");
    if (!opened && !test::in_lab()) GTEST_SKIP() << opened.error().message();
    heap_ = must(std::move(opened), "open");
  }
  std::unique_ptr<heap::Allocator> heap_;
};

TEST_F(Heap, IsListedWithItsProperties) {
  const auto heaps = heap::list();
  const auto system = std::ranges::find(heaps, "system", &heap::Info::name);
  ASSERT_NE(system, heaps.end());
  EXPECT_EQ(system->properties.contiguous, heap::Answer::no);
  EXPECT_EQ(system->properties.cached, heap::Answer::yes);
}

TEST_F(Heap, SaysWhatItsMemoryIsLike) {
  EXPECT_EQ(heap_->name(), "heap:system");
  EXPECT_FALSE(heap_->traits().contiguous);
  EXPECT_TRUE(heap_->traits().cached);
  EXPECT_FALSE(heap_->traits().is_protected);
}

TEST_F(Heap, MakesBuffersOfCommonFormats) { test::expect_buffers_of_common_formats(*heap_, "heap:system"); }
TEST_F(Heap, MemoryIsZeroed) { test::expect_zeroed_memory(*heap_); }
TEST_F(Heap, RefusesWhatNobodyCanMeet) { test::expect_refusals(*heap_); }
TEST_F(Heap, MakesOpaqueBuffers) { test::expect_opaque_buffers(*heap_); }

TEST_F(Heap, NothingIsLeftBehindWhicheverCallFails) {
  Request request = request_of(formats::nv12, {640, 480}, 3);
  request.constraints.separate_objects = true;
  test::expect_no_leak_whichever_call_fails([&]() -> Result<std::vector<Buffer>> {
    auto opened = heap::Allocator::open("system");
    if (!opened) return std::unexpected(opened.error());
    return (*opened)->allocate(request);
  });
}

TEST_F(Heap, OneIoctlForEachObject) {
  Request request = request_of(formats::nv12, {640, 480}, 3);
  request.constraints.separate_objects = true;
  const test::CountCalls ioctls("ioctl", DMA_HEAP_IOCTL_ALLOC);
  ASSERT_TRUE(heap_->allocate(request));
  EXPECT_EQ(ioctls.calls(), 6U);
}

TEST_F(Heap, MoreThanTheMachinesMemoryIsEnomemAndKillsNobody) {
  if (!test::in_lab()) GTEST_SKIP() << "a mistake would cost this machine its memory";
  const test::LeakCheck leaks;
  constexpr std::uint64_t each = 2147483648;  // bytes of the largest frame
  const std::uint32_t count = test::more_than_the_memory(each);
  if (count == 0) GTEST_SKIP() << "no request is larger than this machine's memory";
  const auto result = heap_->allocate(request_of(PixelFormat::of('X', 'R', '4', '8'), {16384, 16384}, count));
  ASSERT_TRUE(test::fails_with(result, ENOMEM));
  EXPECT_TRUE(test::mentions(result.error(), std::to_string(count * each))) << result.error().message();
}

TEST_F(Heap, BuffersOutliveTheAllocator) {
  const test::LeakCheck leaks;
  auto opened = must(heap::Allocator::open("system"), "open");
  const auto buffers = must(opened->allocate(request_of(formats::xrgb8888, {64, 64})), "allocate");
  opened.reset();
  EXPECT_TRUE(test::is_all_zero(buffers[0]));
}

// The heap exports with the access mode that the caller of the ioctl asks for.
TEST_F(Heap, AReadOnlyDmaBufIsReadAndNotWritten) {
  const test::LeakCheck leaks;
  const Fd device = Fd::adopt(::open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(device);
  const Layout layout = must(Layout::linear(formats::xrgb8888, {64, 64}), "layout");
  dma_heap_allocation_data request{};
  request.len = layout.object_sizes()[0];
  request.fd_flags = O_RDONLY | O_CLOEXEC;
  ASSERT_EQ(::ioctl(device.get(), DMA_HEAP_IOCTL_ALLOC, &request), 0);
  Fd fd = Fd::adopt(static_cast<int>(request.fd));
  const Buffer buffer = must(Buffer::create(layout, fd, {}), "buffer");
  const auto soon = Deadline::after(std::chrono::seconds(5));
  {
    const auto access = must(CpuAccess::begin(buffer, Access::read, soon), "read");
    EXPECT_TRUE(std::ranges::all_of(access.plane(0), [](std::byte byte) { return byte == std::byte{0}; }));
    EXPECT_TRUE(access.writable_plane(0).empty());
  }
  EXPECT_TRUE(test::fails_with(CpuAccess::begin(buffer, Access::write, soon), EACCES));
  EXPECT_TRUE(test::fails_with(CpuAccess::begin(buffer, Access::read_write, soon), EACCES));
  const CpuMap map = must(CpuMap::create(buffer, Access::read), "map");
  EXPECT_TRUE(test::fails_with(CpuAccess::begin(map, Access::write, soon), EACCES));
  EXPECT_TRUE(CpuAccess::begin(map, Access::read, soon));
}

TEST_F(Heap, IsFoundByProperty) {
  EXPECT_EQ(must(heap::Allocator::open_with({.cached = heap::Answer::yes}), "open_with")->name(), "heap:system");
  EXPECT_EQ(must(heap::Allocator::open_with({}), "open_with")->name(), "heap:system");
}

TEST_F(Heap, APropertyNoHeapHasSaysWhichHeapsThereAre) {
  using enum heap::Answer;
  const auto heaps = heap::list();
  const struct {
    heap::Properties wish;
    heap::Answer heap::Properties::* property;
    const char* words;
  } rows[] = {{{.contiguous = yes}, &heap::Properties::contiguous, "contiguous"},
              {{.is_protected = yes}, &heap::Properties::is_protected, "protected"},
              {{.cached = no}, &heap::Properties::cached, "not cached"}};
  std::size_t refused = 0;
  for (const auto& [wish, property, words] : rows) {
    const auto has_it = [&](const heap::Info& heap) { return heap.properties.*property == wish.*property; };
    const bool is_there = std::ranges::any_of(heaps, has_it);
    test::observe(std::string("a heap that is ") + words, is_there);
    const auto result = heap::Allocator::open_with(wish);
    if (is_there) {
      EXPECT_TRUE(!result || (*result)->properties().*property == wish.*property) << words;
      continue;
    }
    ++refused;
    ASSERT_TRUE(test::fails_with(result, ENOENT));
    EXPECT_TRUE(test::mentions(result.error(), words) && test::mentions(result.error(), "system"))
        << result.error().message();
  }
  if (refused == 0) GTEST_SKIP() << "this machine has heaps of every kind";
}

TEST_F(Heap, AMissingHeapNamesThoseThereAre) {
  const auto result = heap::Allocator::open("no-such-heap");
  ASSERT_TRUE(test::fails_with(result, ENOENT));
  EXPECT_TRUE(test::mentions(result.error(), "/dev/dma_heap/no-such-heap")) << result.error().message();
  EXPECT_TRUE(test::mentions(result.error(), "system")) << result.error().message();
}

TEST_F(Heap, NoPermissionNamesTheOwnerAndTheUdevRuleThatHelps) {
  if (!test::in_lab()) GTEST_SKIP() << "needs the lab's users and permissions";
  const auto open = [] {
    const auto result = heap::Allocator::open("system");
    return result ? std::string("opened") : result.error().message();
  };
  const std::string said = test::as_user(1000, {1000}, open);
  EXPECT_NE(said.find("EACCES"), std::string::npos) << said;
  EXPECT_NE(said.find("group root"), std::string::npos) << said;
  EXPECT_NE(said.find("SUBSYSTEM==\"dma_heap\", KERNEL==\"system\", GROUP=\"video\", MODE=\"0660\""), std::string::npos)
      << said;
}

}  // namespace
}  // namespace dmaflow
