// The implicit fences of a buffer, and which users wait for which. Pending fences are vgem's, attached as a driver
// attaches them, and sw_sync's, added by import_fence(). Runs in the lab.
#include "fence_support.hpp"
#include "uapi/sync_file.hpp"

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/implicit_fences.hpp>

#include <atomic>
#include <thread>

#include <signal.h>
#include <sys/time.h>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;
using namespace std::chrono_literals;

Deadline soon() { return Deadline::after(8s); }  // vgem signals by itself after ten

/// The pending accesses to the buffer, and whether a new reader or writer must wait for them.
struct Row {
  const char* going_on;
  std::vector<Access> on_the_list;
  bool reader_waits;
  bool writer_waits;
};

/// The table of docs/synchronization.md.
const std::vector<Row> truth_table = {
    {"nothing", {}, false, false},
    {"a read", {Access::read}, false, true},
    {"a write", {Access::write}, true, true},
    {"work that reads and writes", {Access::read_write}, true, true},
    {"two reads", {Access::read, Access::read}, false, true},
    {"a read and a write", {Access::read, Access::write}, true, true},
    {"a write and a read", {Access::write, Access::read}, true, true},
};

void expect_waits(const Buffer& buffer, Access access, bool waits, const std::string& what) {
  const auto idle = wait_idle(buffer, access, Deadline::immediate());
  EXPECT_TRUE(waits ? fails_with(idle, ETIMEDOUT) : testing::AssertionResult(bool{idle})) << what << ", by poll";
  const Fence fence = must(export_fence(buffer, access), "export_fence");
  EXPECT_EQ(must(fence.has_ended()), !waits) << what << ", by export";
  EXPECT_EQ(must(fence.state()), waits ? Fence::State::active : Fence::State::signalled) << what;
}

void expect_row(const Buffer& buffer, const Row& row, bool done) {
  expect_waits(buffer, Access::read, row.reader_waits && !done, std::string("a reader, after ") + row.going_on);
  expect_waits(buffer, Access::write, row.writer_waits && !done, std::string("a writer, after ") + row.going_on);
  expect_waits(buffer, Access::read_write, row.writer_waits && !done, std::string("both, after ") + row.going_on);
}

TEST(ImplicitFences, AReaderWaitsForWritersAndAWriterForEverybody) {
  const LeakCheck leaks;
  Vgem vgem;
  for (const Row& row : truth_table) {
    const VgemBuffer memory = VgemBuffer::create(vgem);
    std::vector<std::unique_ptr<SwSync>> devices;
    for (const Access access : row.on_the_list) {
      devices.push_back(std::make_unique<SwSync>());
      ASSERT_TRUE(import_fence(memory.buffer, devices.back()->fence(1), access));
    }
    expect_row(memory.buffer, row, false);
    for (auto& device : devices) device->advance();
    expect_row(memory.buffer, row, true);
  }
}

TEST(ImplicitFences, WorkThatADriverAttachesOrdersOthersInTheSameWay) {
  const LeakCheck leaks;
  Vgem vgem;
  for (const bool writes : {false, true}) {
    const VgemBuffer memory = VgemBuffer::create(vgem);
    const int fence = vgem.attach(memory.handles[0], writes);
    ASSERT_GT(fence, 0);
    expect_row(memory.buffer, truth_table[writes ? 2 : 1], false);
    vgem.signal(fence);
    expect_row(memory.buffer, truth_table[writes ? 2 : 1], true);
  }
}

TEST(ImplicitFences, ADriverThatLooksAtTheListSeesWhatWasImported) {
  Vgem vgem;
  SwSync device;
  const VgemBuffer memory = VgemBuffer::create(vgem);
  ASSERT_TRUE(import_fence(memory.buffer, device.fence(1), Access::read));
  const int reads = vgem.attach(memory.handles[0], false);
  EXPECT_GT(reads, 0) << "a read is no obstacle to a read";
  EXPECT_EQ(vgem.attach(memory.handles[0], true), -EBUSY) << "but to a write";
  device.advance();
  vgem.signal(reads);
  const int writes = vgem.attach(memory.handles[0], true);
  EXPECT_GT(writes, 0);
  vgem.signal(writes);
}

TEST(ImplicitFences, AnExportIsASnapshot) {
  const LeakCheck leaks;
  Vgem vgem;
  SwSync first;
  SwSync second;
  const VgemBuffer memory = VgemBuffer::create(vgem);
  const Fence empty = must(export_fence(memory.buffer, Access::write));
  ASSERT_TRUE(import_fence(memory.buffer, first.fence(1), Access::write));
  const Fence early = must(export_fence(memory.buffer, Access::write));
  ASSERT_TRUE(import_fence(memory.buffer, second.fence(1), Access::write));
  const Fence late = must(export_fence(memory.buffer, Access::write));

  EXPECT_EQ(must(empty.state()), Fence::State::signalled) << "what came later is not in it";
  EXPECT_EQ(must(early.state()), Fence::State::active);
  first.advance();
  EXPECT_EQ(must(early.state()), Fence::State::signalled) << "the second write came later";
  EXPECT_EQ(must(late.state()), Fence::State::active);
  EXPECT_TRUE(fails_with(wait_idle(memory.buffer, Access::read, Deadline::immediate()), ETIMEDOUT))
      << "poll is no snapshot";
  second.advance();
  EXPECT_TRUE(late.wait(soon()));
}

TEST(ImplicitFences, AnExportHoldsItsFencesWhenTheBufferIsGone) {
  const LeakCheck leaks;
  Vgem vgem;
  SwSync device;
  Fence fence;
  {
    const VgemBuffer memory = VgemBuffer::create(vgem);
    ASSERT_TRUE(import_fence(memory.buffer, device.fence(1), Access::write));
    fence = must(export_fence(memory.buffer, Access::read));
  }
  EXPECT_EQ(must(fence.state()), Fence::State::active);
  device.advance();
  EXPECT_TRUE(fence.wait(soon()));
}

TEST(ImplicitFences, EveryDmaBufOfTheBufferCounts) {
  const LeakCheck leaks;
  Vgem vgem;
  for (const std::size_t busy : {0U, 1U}) {
    const VgemBuffer memory = VgemBuffer::create(vgem, true);
    ASSERT_EQ(memory.buffer.object_count(), 2U);
    EXPECT_TRUE(must(export_fence(memory.buffer, Access::write)).is_null()) << "nothing is going on";
    const int fence = vgem.attach(memory.handles[busy], true);
    ASSERT_GT(fence, 0);
    expect_waits(memory.buffer, Access::read, true, "dma-buf " + std::to_string(busy));
    vgem.signal(fence);
    expect_waits(memory.buffer, Access::read, false, "dma-buf " + std::to_string(busy));
  }
  const VgemBuffer memory = VgemBuffer::create(vgem, true);
  SwSync device;
  ASSERT_TRUE(import_fence(memory.buffer, device.fence(1), Access::write));
  for (const std::uint32_t handle : {memory.handles[0], memory.handles[1]}) {
    EXPECT_EQ(vgem.attach(handle, false), -EBUSY) << "imported into both";
  }
}

TEST(ImplicitFences, AFailedWriteIsOverAndTheListDoesNotTellHowItEnded) {
  Vgem vgem;
  auto device = std::make_unique<SwSync>();
  const VgemBuffer memory = VgemBuffer::create(vgem);
  ASSERT_TRUE(import_fence(memory.buffer, device->fence(1), Access::write));
  const Fence before = must(export_fence(memory.buffer, Access::read));
  device->fail();
  EXPECT_TRUE(fails_with(before.wait(soon()), ENOENT)) << "exported in time";
  EXPECT_TRUE(wait_idle(memory.buffer, Access::read, soon()));
  EXPECT_TRUE(must(export_fence(memory.buffer, Access::read)).wait(soon())) << "exported too late to know";
}

TEST(ImplicitFences, WhatIsNoFenceOrNoDmaBufIsRefused) {
  const LeakCheck leaks;
  Vgem vgem;
  const VgemBuffer memory = VgemBuffer::create(vgem);
  const Fence wrong = Fence::adopt_unchecked(must(Fd::dup_of(memory.buffer.fd(0))));
  EXPECT_TRUE(fails_with(import_fence(memory.buffer, wrong, Access::write), EINVAL));
  EXPECT_FALSE(wrong.is_null());
  expect_waits(memory.buffer, Access::write, false, "a writer");
}

TEST(ImplicitFences, WaitIdleEndsWhenTheWorkEndsOrWhenCancelled) {
  Vgem vgem;
  const VgemBuffer memory = VgemBuffer::create(vgem, true);
  const Cancel cancel = must(Cancel::create());
  const int fence = vgem.attach(memory.handles[1], true);
  ASSERT_GT(fence, 0);
  std::thread stop([&] {
    std::this_thread::sleep_for(20ms);
    cancel.cancel();
  });
  EXPECT_TRUE(fails_with(wait_idle(memory.buffer, Access::read, soon(), &cancel), ECANCELED));
  stop.join();
  cancel.reset();
  std::atomic<bool> is_done{false};
  std::thread device([&] {
    std::this_thread::sleep_for(20ms);
    is_done = true;
    vgem.signal(fence);
  });
  EXPECT_TRUE(wait_idle(memory.buffer, Access::read, soon(), &cancel));
  EXPECT_TRUE(is_done);
  device.join();
}

TEST(ImplicitFences, ADeadlineHintIsTakenOrRefusedInWords) {
  Vgem vgem;
  const VgemBuffer memory = VgemBuffer::create(vgem);
  const int number = vgem.attach(memory.handles[0], true);
  ASSERT_GT(number, 0);
  const Fence fence = must(export_fence(memory.buffer, Access::read));
  const auto hinted = fence.hint_deadline(soon());
  const auto is_refused_in_words = [](const Result<void>& refused) {
    ASSERT_TRUE(fails_with(refused, EOPNOTSUPP));
    EXPECT_NE(refused.error().message().find("6.6"), std::string::npos) << refused.error().message();
  };
  observe("the kernel takes deadline hints", hinted.has_value());
  if (!hinted) is_refused_in_words(hinted);
  {
    const FailNth old(1, ENOTTY, "ioctl", SYNC_IOC_SET_DEADLINE);  // the result of a kernel before 6.6
    is_refused_in_words(fence.hint_deadline(soon()));
  }
  vgem.signal(number);
}

// --- The CPU waits as well

class CpuWaits : public testing::Test {
 protected:
  Vgem vgem;
};

TEST_F(CpuWaits, ForWritersToReadAndForEverybodyToWrite) {
  for (const Row& row : truth_table) {
    const VgemBuffer memory = VgemBuffer::create(vgem);
    SwSync device;
    for (const Access access : row.on_the_list) {
      ASSERT_TRUE(import_fence(memory.buffer, device.fence(1), access));
    }
    const LeakCheck leaks;
    for (const Access access : {Access::read, Access::write, Access::read_write}) {
      const bool waits = access == Access::read ? row.reader_waits : row.writer_waits;
      // If there is something to wait for, DMA_BUF_IOCTL_SYNC would block for ever, so it is made to fail.
      const FailNth syncs(waits ? 1 : 100, EIO, "ioctl", DMA_BUF_IOCTL_SYNC);
      const auto begun = CpuAccess::begin(memory.buffer, access, Deadline::after(2ms));
      EXPECT_TRUE(waits ? fails_with(begun, ETIMEDOUT) : testing::AssertionResult(bool{begun})) << row.going_on;
      EXPECT_EQ(syncs.calls(), waits ? 0U : 1U) << row.going_on;
    }
  }
}

TEST_F(CpuWaits, ForEveryDmaBufOfTheBuffer) {
  for (const std::size_t busy : {0U, 1U}) {
    const VgemBuffer memory = VgemBuffer::create(vgem, true);
    const int fence = vgem.attach(memory.handles[busy], true);
    ASSERT_GT(fence, 0);
    const LeakCheck leaks;
    EXPECT_TRUE(fails_with(CpuAccess::begin(memory.buffer, Access::read, Deadline::after(2ms)), ETIMEDOUT));
    vgem.signal(fence);
    EXPECT_TRUE(CpuAccess::begin(memory.buffer, Access::read, soon()));
  }
}

TEST_F(CpuWaits, UntilTheWorkIsDoneAndNotLonger) {
  const VgemBuffer memory = VgemBuffer::create(vgem);
  const int fence = vgem.attach(memory.handles[0], true);
  ASSERT_GT(fence, 0);
  std::atomic<bool> is_done{false};
  std::thread device([&] {
    std::this_thread::sleep_for(50ms);
    is_done = true;
    vgem.signal(fence);
  });
  const auto access = CpuAccess::begin(memory.buffer, Access::read, soon());
  EXPECT_TRUE(is_done);
  EXPECT_TRUE(access) << access.error().message();
  device.join();
}

TEST_F(CpuWaits, UntilCancelledAndThenNothingIsMappedOrBegun) {
  const VgemBuffer memory = VgemBuffer::create(vgem);
  const int fence = vgem.attach(memory.handles[0], true);
  ASSERT_GT(fence, 0);
  const Cancel cancel = must(Cancel::create());
  const LeakCheck leaks;
  std::thread stop([&] {
    std::this_thread::sleep_for(20ms);
    cancel.cancel();
  });
  EXPECT_TRUE(fails_with(CpuAccess::begin(memory.buffer, Access::read, soon(), &cancel), ECANCELED));
  stop.join();
  const CpuMap map = must(CpuMap::create(memory.buffer, Access::write));
  EXPECT_TRUE(fails_with(CpuAccess::begin(map, Access::write, soon(), &cancel), ECANCELED));
  vgem.signal(fence);
  EXPECT_TRUE(CpuAccess::begin(map, Access::write, soon(), &cancel)) << "what is ready is reported as ready";
}

TEST_F(CpuWaits, UnderSignalsEveryMillisecondNeverEarly) {
  struct sigaction action{};
  struct sigaction old{};
  static std::atomic<int> signals{0};
  action.sa_handler = [](int) { ++signals; };  // without SA_RESTART: system calls fail with EINTR
  ::sigaction(SIGALRM, &action, &old);
  const itimerval every{.it_interval = {0, 1000}, .it_value = {0, 1000}};
  const itimerval never{};
  ::setitimer(ITIMER_REAL, &every, nullptr);

  const VgemBuffer memory = VgemBuffer::create(vgem);
  const int fence = vgem.attach(memory.handles[0], true);
  const Deadline deadline = Deadline::after(200ms);
  const auto late = CpuAccess::begin(memory.buffer, Access::read, deadline);
  const auto end = Deadline::Clock::now();
  vgem.signal(fence);
  const auto good = CpuAccess::begin(memory.buffer, Access::read_write, soon());

  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &old, nullptr);
  EXPECT_TRUE(fails_with(late, ETIMEDOUT));
  EXPECT_GE(end, deadline.time());
  EXPECT_GT(signals, 10) << "it was interrupted";
  EXPECT_TRUE(good) << good.error().message();
}

}  // namespace
