#include "fake.hpp"

#include <dmaflow/cpu_access.hpp>

#include <linux/dma-buf.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

constexpr std::uint64_t start = DMA_BUF_SYNC_START;
constexpr std::uint64_t end = DMA_BUF_SYNC_END;

class CpuAccessTest : public testing::Test {
 protected:
  PretendDmaBufs pretend;
  Buffer buffer = memfd_buffer(small_config().layout);
  Deadline soon = Deadline::after(std::chrono::seconds(5));
  using Flags = std::vector<std::uint64_t>;
};

TEST_F(CpuAccessTest, BracketsEachAccessExactlyOnce) {
  {
    const auto access = must(CpuAccess::begin(buffer, CpuAccess::Mode::read, soon));
  }
  EXPECT_EQ(pretend.syncs, (Flags{start | DMA_BUF_SYNC_READ, end | DMA_BUF_SYNC_READ}));
}

TEST_F(CpuAccessTest, EndTwiceAndDestructionSendOneEnd) {
  {
    auto access = must(CpuAccess::begin(buffer, CpuAccess::Mode::write, soon));
    EXPECT_TRUE(access.end());
    EXPECT_TRUE(access.end());
  }
  EXPECT_EQ(pretend.syncs, (Flags{start | DMA_BUF_SYNC_WRITE, end | DMA_BUF_SYNC_WRITE}));
}

TEST_F(CpuAccessTest, MoveAssignEndsTheOldAccessAndKeepsTheNew) {
  const Buffer other = memfd_buffer(small_config().layout);
  {
    auto access = must(CpuAccess::begin(buffer, CpuAccess::Mode::read, soon));
    access = must(CpuAccess::begin(other, CpuAccess::Mode::write, soon));
    EXPECT_EQ(pretend.syncs, (Flags{start | DMA_BUF_SYNC_READ, start | DMA_BUF_SYNC_WRITE, end | DMA_BUF_SYNC_READ}));
  }
  EXPECT_EQ(pretend.syncs.size(), 4U);
}

TEST_F(CpuAccessTest, AFailedStartEndsWhatWasBegunAndLeaksNothing) {
  const LeakCheck leaks;
  const Buffer planar = memfd_buffer(must(Layout::linear(formats::nv12, {64, 48}, {.separate_objects = true})),
                                     {.separate_objects = true});
  ASSERT_EQ(planar.object_count(), 2U);
  pretend.sync_answers = {0, EIO};
  EXPECT_TRUE(fails_with(CpuAccess::begin(planar, CpuAccess::Mode::read, soon), EIO));
  EXPECT_EQ(pretend.syncs, (Flags{start | DMA_BUF_SYNC_READ, start | DMA_BUF_SYNC_READ, end | DMA_BUF_SYNC_READ}));
}

TEST_F(CpuAccessTest, RetriesEagainAsTheKernelAsks) {
  pretend.sync_answers = {EAGAIN, EAGAIN, 0, EAGAIN, 0};
  {
    const auto access = must(CpuAccess::begin(buffer, CpuAccess::Mode::read, soon));
  }
  EXPECT_EQ(pretend.syncs.size(), 5U);
}

TEST_F(CpuAccessTest, EagainForEverEndsAtTheDeadline) {
  pretend.sync_answers.assign(1, EAGAIN);
  EXPECT_TRUE(fails_with(CpuAccess::begin(buffer, CpuAccess::Mode::read, Deadline::passed()), ETIMEDOUT));
}

TEST_F(CpuAccessTest, AFailingEndIsReportedOnce) {
  auto access = must(CpuAccess::begin(buffer, CpuAccess::Mode::read, soon));
  pretend.sync_answers = {EIO};
  EXPECT_TRUE(fails_with(access.end(), EIO));
  EXPECT_TRUE(access.end());
}

TEST_F(CpuAccessTest, ProtectedBuffersAreNotMapped) {
  std::vector<Fd> fds;
  fds.push_back(memfd(1 << 20));
  const Buffer secret = must(Buffer::create(small_config().layout, fds, {.is_protected = true}));
  EXPECT_TRUE(fails_with(CpuAccess::begin(secret, CpuAccess::Mode::read, soon), EACCES));
}

TEST_F(CpuAccessTest, FailedMappingLeaksNothing) {
  const LeakCheck leaks;
  const Buffer planar = memfd_buffer(must(Layout::linear(formats::nv12, {64, 48}, {.separate_objects = true})),
                                     {.separate_objects = true});
  for (std::size_t nth = 1; nth <= 2; ++nth) {
    const FailNth fail(nth, ENOMEM, "mmap");
    EXPECT_TRUE(fails_with(CpuMap::create(planar), ENOMEM));
  }
}

TEST_F(CpuAccessTest, PlanesAtOddOffsetsAreMappedWhole) {
  Layout layout = must(Layout::linear(formats::nv12, {66, 50}));
  layout.planes[0].offset += 12;  // not page-aligned
  layout.planes[1].offset += 12;
  std::vector<Fd> fds;
  fds.push_back(memfd(layout.object_sizes()[0] + 12));
  const Buffer odd = must(Buffer::create(layout, fds));
  const CpuMap map = must(CpuMap::create(odd));
  auto access = must(CpuAccess::begin(map, CpuAccess::Mode::read_write, soon));
  const auto chroma = access.plane(1);
  EXPECT_EQ(chroma.data() - map.object(0).data(), layout.planes[1].offset);
  EXPECT_EQ(chroma.size(), std::size_t{layout.planes[1].stride} * 24 + 66);
  chroma.back() = std::byte{7};
}

TEST_F(CpuAccessTest, APlaneOfAVendorsArrangementEndsWithItsMemory) {
  Layout tiled = small_config().layout;
  tiled.modifier = Modifier::from_value(0x0100000000000001ULL);
  std::vector<Fd> fds;
  fds.push_back(memfd(4096));  // less than 64x48 pixels in rows
  const auto compressed = Buffer::create(tiled, fds);
  if (!compressed) return;  // refused: as well
  EXPECT_EQ(must(CpuMap::create(*compressed)).plane(0).size(), 4096U);
}

TEST_F(CpuAccessTest, AKeptMappingIsUsedAgainWithoutMapping) {
  const CpuMap map = must(CpuMap::create(buffer));
  const auto mappings = device_mappings();
  {
    const CountCalls mmaps("mmap");
    for (int i = 0; i < 3; ++i) {
      // memfds are no dma-bufs, so without the pretender the bracket fails: all that counts here is that nothing maps
      static_cast<void>(CpuAccess::begin(map, CpuAccess::Mode::read, soon));
    }
    EXPECT_EQ(mmaps.calls(), 0U);
  }
}

}  // namespace
