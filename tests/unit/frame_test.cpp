#include "fake.hpp"

#include <dmaflow/frame.hpp>

#include <thread>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

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
    const Frame frame = set->lend(1, {.sequence = 7});
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
  const Frame frame = set->lend(0, {});
  EXPECT_FALSE(set->lend(0, {}));
  EXPECT_EQ(set->lent(), 1U);
}

TEST_F(FrameTest, MovingAFrameOverAnotherReturnsTheOther) {
  Frame kept = set->lend(0, {});
  kept = set->lend(1, {});
  EXPECT_EQ(set->take_returned()->index, 0U);
  EXPECT_EQ(kept.index(), 1U);
  Frame& same = kept;
  kept = std::move(same);  // self-move keeps the hold
  EXPECT_EQ(set->lent(), 1U);
}

TEST_F(FrameTest, ReturnsInTheOrderOfLettingGo) {
  Frame a = set->lend(0, {});
  Frame b = set->lend(1, {});
  Frame c = set->lend(2, {});
  b.release();
  c.release();
  a.release();
  EXPECT_EQ(set->take_returned()->index, 1U);
  EXPECT_EQ(set->take_returned()->index, 2U);
  EXPECT_EQ(set->take_returned()->index, 0U);
}

TEST_F(FrameTest, SplitHoldsEndWithTheLastHolder) {
  Frame screen = set->lend(0, {.sequence = 3});
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
  Frame frame = set->lend(0, {});
  Frame other = must(frame.split());
  EXPECT_TRUE(fails_with(frame.describe({.sequence = 9}), EPERM));
  other.release();
  EXPECT_TRUE(frame.describe({.sequence = 9}));
  EXPECT_EQ(frame.info().sequence, 9U);
}

TEST_F(FrameTest, TooManySplitsAreRefusedAndHarmNothing) {
  Frame frame = set->lend(0, {});
  std::vector<Frame> holders;
  for (std::uint32_t i = 1; i < HoldSet::max_holders; ++i) holders.push_back(must(frame.split()));
  EXPECT_TRUE(fails_with(frame.split(), EMFILE));
  holders.clear();
  frame.release();
  EXPECT_TRUE(set->take_returned());
  EXPECT_TRUE(set->lend(0, {}).split()) << "the next image starts anew";
}

TEST_F(FrameTest, OutlivesItsSource) {
  Frame frame = set->lend(2, {.sequence = 5});
  set.reset();
  EXPECT_EQ(frame.info().sequence, 5U);
  EXPECT_GT(frame.buffer().size(0), 0U);
}

TEST_F(FrameTest, NothingLeaksWhenSetAndFramesGo) {
  const LeakCheck leaks;
  const auto layout = small_config().layout;
  auto other = must(HoldSet::create({memfd_buffer(layout)}));
  Frame frame = other->lend(0, {});
  other.reset();
  frame.release();
}

TEST_F(FrameTest, ReturnFromAnotherThreadWakesAnArmedLoop) {
  Frame frame = set->lend(0, {});
  ASSERT_TRUE(set->arm());
  std::thread other([moved = std::move(frame)]() mutable { moved.release(); });
  const int ready = sys::wait(set->wake_fd(), POLLIN, Deadline::after(std::chrono::seconds(5)));
  other.join();
  EXPECT_EQ(ready, POLLIN);
  set->disarm(true);
  EXPECT_EQ(sys::wait(set->wake_fd(), POLLIN, Deadline::passed()), 0) << "woken once, not for ever";
  EXPECT_TRUE(set->take_returned());
}

TEST_F(FrameTest, ReturnOnTheLoopsOwnThreadMakesNoSystemCall) {
  const CountCalls calls;  // takes the pretender's place: all buffers are made
  for (int i = 0; i < 1000; ++i) {
    set->lend(0, {}).release();
    ASSERT_TRUE(set->take_returned());
  }
  EXPECT_EQ(calls.calls(), 0U);
}

TEST_F(FrameTest, ArmSaysWhenThereIsNoNeedToSleep) {
  set->lend(0, {}).release();
  EXPECT_FALSE(set->arm());
}

TEST_F(FrameTest, RetiredBuffersLetGoOfTheirMemory) {
  const LeakCheck leaks;
  auto other = must(HoldSet::create({memfd_buffer(small_config().layout), memfd_buffer(small_config().layout)}));
  const auto before = open_fds().size();
  Frame held = other->lend(1, {});
  EXPECT_TRUE(fails_with(other->retire(1), EBUSY));
  EXPECT_TRUE(other->retire(0));
  EXPECT_EQ(open_fds().size(), before - 1);
  EXPECT_FALSE(other->lend(0, {}));
  held.release();
  other.reset();
}

// Run under ThreadSanitizer as well: many threads let go while the source takes back and lends again.
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
      auto frame = std::make_unique<Frame>(set->lend(i, {}));
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
