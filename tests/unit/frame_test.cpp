#include "fake.hpp"

#include <dmaflow/frame.hpp>

#include <thread>

#include <sys/eventfd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

/// A fence that nothing queries.
Fence some_fence() { return Fence::adopt_unchecked(Fd::adopt(::eventfd(0, EFD_CLOEXEC))); }

class FrameTest : public testing::Test {
 protected:
  FrameTest() {
    const auto layout = small_config().layout;
    set = must(HoldSet::create({memfd_buffer(layout), memfd_buffer(layout), memfd_buffer(layout)}));
  }
  PretendDmaBufs pretend;
  std::shared_ptr<HoldSet> set;
};

TEST_F(FrameTest, ComesBackWhenDropped) {
  {
    const Frame frame = must(set->lend(1, {.sequence = 7}));
    EXPECT_EQ(frame.info().sequence, 7U);
    EXPECT_EQ(set->lent(), 1U);
    EXPECT_FALSE(set->take_returned());
  }
  const auto back = set->take_returned();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->index, 1U);
  EXPECT_EQ(set->lent(), 0U);
  EXPECT_FALSE(set->take_returned());
}

TEST_F(FrameTest, ABufferThatIsLentCannotBeLentAgain) {
  const Frame frame = must(set->lend(0, {}));
  EXPECT_TRUE(fails_with(set->lend(0, {}), EBUSY));
  EXPECT_EQ(set->lent(), 1U);
}

TEST_F(FrameTest, MovingAFrameOverAnotherReturnsTheOther) {
  Frame kept = must(set->lend(0, {}));
  kept = must(set->lend(1, {}));
  EXPECT_EQ(set->take_returned()->index, 0U);
  EXPECT_EQ(kept.index(), 1U);
  Frame& same = kept;
  kept = std::move(same);  // self-move keeps the hold
  EXPECT_EQ(set->lent(), 1U);
}

TEST_F(FrameTest, ReturnsInTheOrderOfLettingGo) {
  Frame a = must(set->lend(0, {}));
  Frame b = must(set->lend(1, {}));
  Frame c = must(set->lend(2, {}));
  b.release();
  c.release();
  a.release();
  EXPECT_EQ(set->take_returned()->index, 1U);
  EXPECT_EQ(set->take_returned()->index, 2U);
  EXPECT_EQ(set->take_returned()->index, 0U);
}

TEST_F(FrameTest, SplitHoldsEndWithTheLastHolder) {
  Frame screen = must(set->lend(0, {.sequence = 3}));
  EXPECT_TRUE(screen.is_sole());
  Frame recorder = must(screen.split());
  EXPECT_FALSE(screen.is_sole());
  EXPECT_EQ(recorder.info().sequence, 3U);
  EXPECT_EQ(recorder.buffer(), screen.buffer());
  screen.release();
  EXPECT_FALSE(set->take_returned());
  EXPECT_TRUE(recorder.is_sole()) << "the last holder may write again";
  recorder.release();
  EXPECT_TRUE(set->take_returned());
}

TEST_F(FrameTest, OnlyTheSoleHolderDescribesTheContents) {
  Frame frame = must(set->lend(0, {}));
  Frame other = must(frame.split());
  EXPECT_TRUE(fails_with(frame.set_info({.sequence = 9}), EPERM));
  other.release();
  EXPECT_TRUE(frame.set_info({.sequence = 9}));
  EXPECT_EQ(frame.info().sequence, 9U);
}

TEST_F(FrameTest, TooManySplitsAreRefusedAndHarmNothing) {
  Frame frame = must(set->lend(0, {}));
  std::vector<Frame> holders;
  for (std::uint32_t i = 1; i < HoldSet::max_holders; ++i) holders.push_back(must(frame.split()));
  EXPECT_TRUE(fails_with(frame.split(), EMFILE));
  holders.clear();
  frame.release();
  EXPECT_TRUE(set->take_returned());
  EXPECT_TRUE(must(set->lend(0, {})).split()) << "the next image starts anew";
}

TEST_F(FrameTest, OutlivesItsSource) {
  Frame frame = must(set->lend(2, {.sequence = 5}));
  set.reset();
  EXPECT_EQ(frame.info().sequence, 5U);
  EXPECT_GT(frame.buffer().size(0), 0U);
}

TEST_F(FrameTest, NothingLeaksWhenSetAndFramesGo) {
  const LeakCheck leaks;
  const auto layout = small_config().layout;
  auto other = must(HoldSet::create({memfd_buffer(layout)}));
  Frame frame = must(other->lend(0, {}));
  other.reset();
  frame.release();
}

TEST_F(FrameTest, ReturnFromAnotherThreadWakesAnArmedLoop) {
  Frame frame = must(set->lend(0, {}));
  ASSERT_TRUE(set->arm());
  std::thread other([moved = std::move(frame)]() mutable { moved.release(); });
  const int ready = sys::wait(set->wake_fd(), POLLIN, Deadline::after(std::chrono::seconds(5)));
  other.join();
  EXPECT_EQ(ready, POLLIN);
  set->disarm(true);
  EXPECT_EQ(sys::wait(set->wake_fd(), POLLIN, Deadline::immediate()), 0) << "woken once, not for ever";
  EXPECT_TRUE(set->take_returned());
}

TEST_F(FrameTest, ReturnOnTheLoopsOwnThreadMakesNoSystemCall) {
  const CountCalls calls;  // replaces the PretendDmaBufs hook: all buffers exist already
  for (int i = 0; i < 1000; ++i) {
    must(set->lend(0, {})).release();
    ASSERT_TRUE(set->take_returned());
  }
  EXPECT_EQ(calls.calls(), 0U);
}

TEST_F(FrameTest, ArmSaysWhenThereIsNoNeedToSleep) {
  must(set->lend(0, {})).release();
  EXPECT_FALSE(set->arm());
}

TEST_F(FrameTest, RetiredBuffersLetGoOfTheirMemory) {
  const LeakCheck leaks;
  auto other = must(HoldSet::create({memfd_buffer(small_config().layout), memfd_buffer(small_config().layout)}));
  const auto before = open_fds().size();
  Frame held = must(other->lend(1, {}));
  EXPECT_TRUE(fails_with(other->retire(1), EBUSY));
  EXPECT_TRUE(other->retire(0));
  EXPECT_EQ(open_fds().size(), before - 1);
  EXPECT_TRUE(fails_with(other->lend(0, {}), EINVAL));
  EXPECT_TRUE(fails_with(other->retire(0), EINVAL));
  held.release();
  other.reset();
}

// A regression test: 2 buffers once came back 1000 times, because a buffer that was still in the list was added to it
// again.
TEST_F(FrameTest, ABufferThatCameBackIsNotLentBeforeItIsTaken) {
  must(set->lend(0, {})).release();
  must(set->lend(1, {})).release();
  EXPECT_TRUE(fails_with(set->lend(0, {}), EBUSY)) << "in the stack";
  EXPECT_TRUE(fails_with(set->lend(1, {}), EBUSY)) << "in the stack";
  ASSERT_TRUE(set->take_returned());
  EXPECT_TRUE(fails_with(set->lend(1, {}), EBUSY)) << "in the list in order";
  EXPECT_TRUE(fails_with(set->retire(1), EBUSY));
  EXPECT_EQ(set->lent(), 0U);
  const auto last = set->take_returned();
  ASSERT_TRUE(last);
  EXPECT_EQ(last->index, 1U);
  EXPECT_FALSE(set->take_returned());
  EXPECT_TRUE(set->lend(1, {}));
}

TEST_F(FrameTest, ABufferThatIsNotThereIsNeitherLentNorRetired) {
  for (const std::uint32_t index : {3U, 63U, 64U, ~0U}) {
    EXPECT_TRUE(fails_with(set->lend(index, {}), EINVAL)) << index;
    EXPECT_TRUE(fails_with(set->retire(index), EINVAL)) << index;
    EXPECT_TRUE(set->fences(index).empty()) << index;
  }
}

TEST_F(FrameTest, ARefusedFenceStaysTheCallers) {
  const Frame frame = must(set->lend(0, {}));
  Fence ready = some_fence();
  EXPECT_TRUE(fails_with(set->lend(0, {}, std::move(ready)), EBUSY));
  EXPECT_FALSE(ready.is_null());
  Frame lent = must(set->lend(1, {}));
  const Frame other = must(lent.split());
  EXPECT_TRUE(fails_with(lent.set_info({}, std::move(ready)), EPERM));
  EXPECT_FALSE(ready.is_null());
}

TEST_F(FrameTest, ReleaseFencesAreGivenForFreeBuffersOnlyUntilTheNextLoan) {
  Frame frame = must(set->lend(0, {}));
  Frame other = must(frame.split());
  frame.release(some_fence());
  EXPECT_TRUE(set->fences(0).empty()) << "lent: the other holder may be adding its own";
  other.release(some_fence());
  EXPECT_TRUE(set->fences(0).empty()) << "not taken yet";
  ASSERT_TRUE(set->take_returned());
  EXPECT_EQ(set->fences(0).size(), 2U);
  const Frame again = must(set->lend(0, {}));
  EXPECT_TRUE(set->fences(0).empty());
}

TEST_F(FrameTest, ARetiredBuffersReleaseFencesAreClosed) {
  const auto before = open_fds().size();
  must(set->lend(0, {})).release(some_fence());
  ASSERT_TRUE(set->take_returned());
  EXPECT_EQ(open_fds().size(), before + 1);
  must(set->retire(0));
  EXPECT_EQ(open_fds().size(), before - 1) << "the buffer's descriptor and the fence's";
}

TEST_F(FrameTest, EveryCallOnAnEmptyFrameIsSafe) {
  Frame moved_from = must(set->lend(0, {.sequence = 3}));
  const Frame kept = std::move(moved_from);
  Frame released = must(set->lend(1, {.sequence = 4}));
  released.release();
  Frame never;
  for (Frame* empty : {&moved_from, &released, &never}) {  // NOLINT(bugprone-use-after-move)
    EXPECT_FALSE(*empty);
    EXPECT_FALSE(empty->buffer());
    EXPECT_EQ(empty->info().sequence, 0U);
    EXPECT_TRUE(empty->ready().is_null());
    EXPECT_FALSE(empty->is_sole());
    EXPECT_TRUE(fails_with(empty->split(), EINVAL));
    EXPECT_TRUE(fails_with(empty->set_info({}), EINVAL));
    empty->release();
    empty->release(some_fence());
  }
  EXPECT_EQ(set->lent(), 1U);
}

TEST_F(FrameTest, AddedBuffersTakeTheIndicesOfRetiredOnesFirst) {
  const auto layout = small_config().layout;
  auto other = must(HoldSet::create({memfd_buffer(layout), memfd_buffer(layout)}, 3));
  EXPECT_TRUE(fails_with(other->add(Buffer()), EINVAL));
  EXPECT_EQ(must(other->add(memfd_buffer(layout))), 2U);
  EXPECT_TRUE(fails_with(other->add(memfd_buffer(layout)), ENOSPC));
  must(other->retire(1));
  const Buffer second = memfd_buffer(layout);
  EXPECT_EQ(must(other->add(second)), 1U);
  EXPECT_EQ(must(other->lend(1, {})).buffer(), second);
  EXPECT_TRUE(fails_with(HoldSet::create({second}, HoldSet::max_buffers + 1), EINVAL));
}

// Also run under ThreadSanitizer: the source misuses every call while other threads split, read and release frames.
TEST_F(FrameTest, MisuseAmongManyThreadsIsRefusedAndLosesNothing) {
  constexpr int rounds = 3'000;
  const auto layout = small_config().layout;
  const auto own = must(HoldSet::create({memfd_buffer(layout), memfd_buffer(layout), memfd_buffer(layout)}, 4));
  enum class State : std::uint8_t { free, away };
  std::vector<State> states(3, State::free);
  std::array<std::atomic<Frame*>, 3> hand_over{};
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (auto& slot : hand_over) {
    threads.emplace_back([&] {
      while (!done || slot.load() != nullptr) {
        const std::unique_ptr<Frame> frame(slot.exchange(nullptr));
        if (!frame) {
          std::this_thread::yield();
          continue;
        }
        EXPECT_TRUE(frame->buffer());
        EXPECT_EQ(frame->info().sequence, frame->index());
        frame->release(some_fence());
      }
    });
  }
  int lent = 0;
  const auto take = [&] {
    while (const auto back = own->take_returned()) {
      ASSERT_EQ(states.at(back->index), State::away) << "came back twice";
      EXPECT_EQ(back->fences.size(), 2U);
      states[back->index] = State::free;
    }
  };
  for (std::uint32_t i = 0; lent < rounds; i = (i + 1) % static_cast<std::uint32_t>(states.size())) {
    auto frame = own->lend(i, {.sequence = i});
    ASSERT_EQ(frame.has_value(), states[i] == State::free) << "only a free buffer is lent";
    if (frame) {
      states[i] = State::away;
      auto& slot = hand_over[static_cast<std::size_t>(++lent) % hand_over.size()];
      auto other = std::make_unique<Frame>(must(frame->split()));
      Frame* none = nullptr;
      if (slot.compare_exchange_strong(none, other.get())) {
        static_cast<void>(other.release());
      } else {
        other->release(some_fence());
      }
      frame->release(some_fence());
    } else {
      EXPECT_TRUE(fails_with(frame, EBUSY));
      EXPECT_TRUE(fails_with(own->retire(i), EBUSY));
      EXPECT_TRUE(own->fences(i).empty());
      std::this_thread::yield();
    }
    if (lent == rounds / 2 && states.size() == 3) {  // while other threads read frames
      EXPECT_EQ(must(own->add(memfd_buffer(layout))), 3U);
      states.push_back(State::free);
    }
    if (i == 0) take();
  }
  done = true;
  for (auto& thread : threads) thread.join();
  take();
  EXPECT_EQ(states, std::vector(4, State::free));
  EXPECT_EQ(own->lent(), 0U);
}

// Also run under ThreadSanitizer: many threads release frames while the source takes them back and lends them again.
TEST_F(FrameTest, ManyThreadsReturnAndNothingIsLostOrDoubled) {
  constexpr int rounds = 5'000;
  std::array<std::atomic<Frame*>, 4> hand_over{};
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (auto& slot : hand_over) {
    threads.emplace_back([&] {
      while (!done) {
        if (Frame* frame = slot.exchange(nullptr)) {
          frame->release();
          delete frame;
        } else {
          std::this_thread::yield();
        }
      }
      delete slot.exchange(nullptr);
    });
  }
  std::vector<bool> home(3, true);
  int lent = 0;
  while (lent < rounds) {
    std::this_thread::yield();
    while (const auto back = set->take_returned()) {
      EXPECT_FALSE(home[back->index]) << "came back twice";
      home[back->index] = true;
    }
    for (std::uint32_t i = 0; i < 3; ++i) {
      if (!home[i]) continue;
      home[i] = false;
      auto frame = std::make_unique<Frame>(must(set->lend(i, {})));
      ASSERT_TRUE(*frame);
      Frame other = must(frame->split());
      Frame* none = nullptr;
      auto& slot = hand_over[static_cast<std::size_t>(++lent) % hand_over.size()];
      if (slot.compare_exchange_strong(none, frame.get())) static_cast<void>(frame.release());
    }
  }
  done = true;
  for (auto& thread : threads) thread.join();
  while (const auto back = set->take_returned()) home[back->index] = true;
  EXPECT_EQ(home, std::vector<bool>(3, true));
  EXPECT_EQ(set->lent(), 0U);
}

}  // namespace
