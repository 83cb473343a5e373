#include "fake.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/cpu_access.hpp>

#include <cstdlib>
#include <fstream>
#include <string>

#include <fcntl.h>
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
  EXPECT_TRUE(fails_with(CpuAccess::begin(buffer, CpuAccess::Mode::read, Deadline::immediate()), ETIMEDOUT));
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
    EXPECT_TRUE(fails_with(CpuMap::create(planar, Access::read), ENOMEM));
  }
}

TEST_F(CpuAccessTest, PlanesAtOddOffsetsAreMappedWhole) {
  Layout layout = must(Layout::linear(formats::nv12, {66, 50}));
  layout.planes[0].offset += 12;  // not page-aligned
  layout.planes[1].offset += 12;
  std::vector<Fd> fds;
  fds.push_back(memfd(layout.object_sizes()[0] + 12));
  const Buffer odd = must(Buffer::create(layout, fds));
  const CpuMap map = must(CpuMap::create(odd, Access::read_write));
  auto access = must(CpuAccess::begin(map, CpuAccess::Mode::read_write, soon));
  const auto chroma = access.writable_plane(1);
  EXPECT_EQ(chroma.data() - map.object(0).data(), layout.planes[1].offset);
  EXPECT_EQ(chroma.size(), std::size_t{layout.planes[1].stride} * 24 + 66);
  chroma.back() = std::byte{7};
}

TEST_F(CpuAccessTest, APlaneOfAVendorsArrangementEndsWithItsMemory) {
  Layout tiled = small_config().layout;
  tiled.modifier = Modifier::from_value(0x0100000000000001ULL);
  std::vector<Fd> fds;
  fds.push_back(memfd(4096));  // less than 64x48 pixels in linear rows
  const auto compressed = Buffer::create(tiled, fds);
  if (!compressed) return;  // a refusal is acceptable as well
  EXPECT_EQ(must(CpuMap::create(*compressed, Access::read)).plane(0).size(), 4096U);
}

TEST_F(CpuAccessTest, AKeptMappingIsUsedAgainWithoutMapping) {
  const CpuMap map = must(CpuMap::create(buffer, Access::read));
  const auto mappings = device_mappings();
  {
    const CountCalls mmaps("mmap");
    for (int i = 0; i < 3; ++i) {
      // memfds are no dma-bufs, so access fails while they do not pass as such: the test only checks that nothing is
      // mapped
      static_cast<void>(CpuAccess::begin(map, CpuAccess::Mode::read, soon));
    }
    EXPECT_EQ(mmaps.calls(), 0U);
  }
}

/// A buffer whose descriptor is open for reading only, as a dma-buf exported without O_RDWR is.
Buffer read_only_buffer() {
  const Fd writable = memfd(1 << 20);
  const std::string path = "/proc/self/fd/" + std::to_string(writable.get());
  Fd fd = Fd::adopt(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return must(Buffer::create(small_config().layout, fd, {.origin = "test"}));
}

/// How the memory at an address is mapped, e.g. "r--s".
std::string protection_at(const void* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto space = line.find(' ');
    if (std::strtoull(line.c_str(), nullptr, 16) == reinterpret_cast<std::uintptr_t>(address)) {
      return line.substr(space + 1, 4);
    }
  }
  return "nothing";
}

TEST_F(CpuAccessTest, AReadOnlyBufferIsReadAndWritingToItIsOneClearError) {
  const LeakCheck leaks;
  const Buffer fixed = read_only_buffer();
  {
    const auto access = must(CpuAccess::begin(fixed, Access::read, soon));
    EXPECT_EQ(access.plane(0).size(), std::size_t{64} * 4 * 48);
    EXPECT_EQ(access.plane(0).back(), std::byte{0});
    EXPECT_TRUE(access.writable_plane(0).empty());
    EXPECT_TRUE(access.writable_object(0).empty());
  }
  const auto sent = pretend.syncs.size();
  for (const Access access : {Access::write, Access::read_write}) {
    EXPECT_TRUE(fails_with(CpuMap::create(fixed, access), EACCES));
    const auto refused = CpuAccess::begin(fixed, access, soon);
    ASSERT_TRUE(fails_with(refused, EACCES));
    EXPECT_NE(refused.error().message().find("reading only"), std::string::npos) << refused.error().message();
  }
  EXPECT_EQ(pretend.syncs.size(), sent) << "nothing was begun";
}

TEST_F(CpuAccessTest, ACopyReadsReadOnlyBuffersAndDoesNotWriteToThem) {
  CopyStage copy;
  must(copy.set_input(small_config()));
  EXPECT_TRUE(copy.import(read_only_buffer()));
  EXPECT_TRUE(fails_with(copy.try_output(read_only_buffer()), EACCES));
  const Buffer input = read_only_buffer();
  must(copy.set_output(small_config()));
  must(copy.start(std::span(&input, 1), {buffer}));
  const auto holds = must(HoldSet::create({input}));
  must(copy.accept(must(holds->lend(0, {}))));
  EXPECT_TRUE(must(copy.take()));
  EXPECT_TRUE(fails_with(copy.start(std::span(&buffer, 1), {input}), EACCES));
}

TEST_F(CpuAccessTest, AMapIsAsWritableAsItWasAskedToBe) {
  for (const Access access : {Access::read, Access::write, Access::read_write}) {
    const CpuMap map = must(CpuMap::create(buffer, access));
    EXPECT_EQ(map.is_writable(), access != Access::read);
    EXPECT_EQ(protection_at(map.object(0).data()), access == Access::read ? "r--s" : "rw-s");
    EXPECT_EQ(map.writable_object(0).size(), access == Access::read ? 0U : map.object(0).size());
    EXPECT_EQ(map.writable_plane(0).size(), access == Access::read ? 0U : map.plane(0).size());
  }
}

TEST_F(CpuAccessTest, WritingThroughAMapForReadingIsRefusedBeforeAnythingIsBegun) {
  const CpuMap map = must(CpuMap::create(buffer, Access::read));
  for (const Access access : {Access::write, Access::read_write}) {
    const auto refused = CpuAccess::begin(map, access, soon);
    ASSERT_TRUE(fails_with(refused, EACCES));
    EXPECT_NE(refused.error().message().find("Access::read"), std::string::npos) << refused.error().message();
  }
  EXPECT_TRUE(pretend.syncs.empty());
  EXPECT_TRUE(CpuAccess::begin(map, Access::read, soon));
}

TEST_F(CpuAccessTest, AnAccessForReadingGivesNothingToWriteTo) {
  const CpuMap map = must(CpuMap::create(buffer, Access::read_write));
  const auto reading = must(CpuAccess::begin(map, Access::read, soon));
  EXPECT_TRUE(reading.writable_plane(0).empty());
  EXPECT_TRUE(reading.writable_object(0).empty());
  const auto writing = must(CpuAccess::begin(map, Access::write, soon));
  EXPECT_EQ(writing.writable_plane(0).data(), map.plane(0).data());
}

TEST_F(CpuAccessTest, WhatIsNotThereHasNoBytes) {
  CpuMap map = must(CpuMap::create(buffer, Access::read_write));
  auto access = must(CpuAccess::begin(map, Access::read_write, soon));
  for (const std::uint32_t index : {1U, 4U, ~0U}) {
    EXPECT_TRUE(map.object(index).empty() && map.plane(index).empty()) << index;
    EXPECT_TRUE(access.writable_object(index).empty() && access.writable_plane(index).empty()) << index;
  }
  const auto other = std::move(access);
  EXPECT_TRUE(access.plane(0).empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(access.writable_object(0).empty());
  EXPECT_TRUE(access.end());
  auto mapped_anew = must(CpuMap::create(buffer, Access::write));
  const CpuMap kept = std::move(mapped_anew);
  EXPECT_TRUE(mapped_anew.plane(0).empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(mapped_anew.writable_object(0).empty());
  EXPECT_TRUE(fails_with(CpuAccess::begin(mapped_anew, Access::read, soon), EINVAL));
  EXPECT_TRUE(fails_with(CpuAccess::begin(mapped_anew, Access::write, soon), EINVAL));
  EXPECT_TRUE(fails_with(CpuMap::create(Buffer(), Access::read), EINVAL));
}

/// Makes the sleeps between attempts take no time, and counts them: they are polls without a descriptor.
class CountPauses : public PretendDmaBufs {
 public:
  int before(const sys::Call& call) noexcept override {
    if (std::string_view(call.name) != "poll" || call.fd != -1) return PretendDmaBufs::before(call);
    ++pauses;
    return pretend;
  }
  std::size_t pauses = 0;
};

TEST_F(CpuAccessTest, SleepsOnceBetweenTwoTriesAtStartAndEnd) {
  CountPauses busy;
  busy.sync_answers.assign(40, EAGAIN);
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(std::chrono::hours(1))));
  EXPECT_EQ(busy.syncs.size(), 41U);
  EXPECT_EQ(busy.pauses, 40U);
  busy.sync_answers.assign(3, EAGAIN);
  EXPECT_TRUE(access.end());
  EXPECT_EQ(busy.pauses, 43U);
}

TEST_F(CpuAccessTest, EagainUntilTheDeadlineTakesFewTries) {
  pretend.sync_answers.assign(1'000'000, EAGAIN);
  const auto deadline = Deadline::after(std::chrono::milliseconds(20));
  EXPECT_TRUE(fails_with(CpuAccess::begin(buffer, Access::read, deadline), ETIMEDOUT));
  EXPECT_LE(pretend.syncs.size(), 16U) << "50 us, 100 us, ... 4 ms, 4 ms, ... apart";
}

TEST_F(CpuAccessTest, EagainForEverAtTheEndIsATimeout) {
  auto access = must(CpuAccess::begin(buffer, Access::read, soon));
  pretend.sync_answers.assign(1'000'000, EAGAIN);
  EXPECT_TRUE(fails_with(access.end(), ETIMEDOUT));
  EXPECT_LE(pretend.syncs.size(), 300U);
  pretend.sync_answers.clear();
}

/// Sets a Cancel when the n-th DMA_BUF_IOCTL_SYNC is sent.
class CancelAtNth : public PretendDmaBufs {
 public:
  CancelAtNth(const Cancel& cancel, std::size_t nth) : cancel_(cancel), nth_(nth) {}
  int before(const sys::Call& call) noexcept override {
    const int answer = PretendDmaBufs::before(call);
    if (call.request == DMA_BUF_IOCTL_SYNC && syncs.size() == nth_) cancel_.cancel();
    return answer;
  }

 private:
  const Cancel& cancel_;
  std::size_t nth_;
};

TEST_F(CpuAccessTest, ACancelEndsTheTriesAtTheStart) {
  const Cancel cancel = must(Cancel::create());
  CancelAtNth busy(cancel, 3);
  busy.sync_answers.assign(100, EAGAIN);
  EXPECT_TRUE(fails_with(CpuAccess::begin(buffer, Access::read, soon, &cancel), ECANCELED));
  EXPECT_EQ(busy.syncs, Flags(3, start | DMA_BUF_SYNC_READ)) << "and nothing was begun";
}

TEST_F(CpuAccessTest, ACancelDoesNotLeaveAnAccessUnended) {
  const Cancel cancel = must(Cancel::create());
  CancelAtNth busy(cancel, 1);
  auto access = must(CpuAccess::begin(buffer, Access::read, soon, &cancel));
  busy.sync_answers = {EAGAIN, EAGAIN, 0};
  EXPECT_TRUE(access.end());
  EXPECT_EQ(busy.syncs.size(), 4U);
}

}  // namespace
