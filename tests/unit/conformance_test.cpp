// The conformance checks: objects that keep the contract pass, and each violation of it is found.
#include "fake.hpp"

#include "sys/sys.hpp"

#include <dmaflow/function_sink.hpp>
#include <dmaflow/testing/conformance.hpp>

#include <unistd.h>

using namespace dmaflow;
using namespace dmaflow::test;
using dmaflow::testing::check_sink;
using dmaflow::testing::check_source;

namespace {

class Conformance : public ::testing::Test {
 protected:
  [[nodiscard]] dmaflow::testing::Findings check(FakeSource& source) {
    return check_source(
        source, {.allocator = &heap, .frames = 4, .patience = std::chrono::milliseconds(500), .provoke = [&source] {
                   if (source.started) source.expose();
                 }});
  }
  [[nodiscard]] dmaflow::testing::Findings check(Sink& sink) {
    return check_sink(
        sink, {.config = small_config(), .allocator = &heap, .frames = 4, .patience = std::chrono::milliseconds(500)});
  }
  static ::testing::AssertionResult finds(const dmaflow::testing::Findings& findings, std::string_view what) {
    if (findings.text().find(what) != std::string::npos) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "found only: " << findings.text();
  }

  PretendDmaBufs pretend;
  FakeAllocator heap{"heap"};
};

TEST_F(Conformance, TheFakesKeepTheContract) {
  FakeSource source{{small_config()}};
  const auto of_source = check(source);
  EXPECT_TRUE(of_source) << of_source.text();
  FakeSink sink;
  const auto of_sink = check(sink);
  EXPECT_TRUE(of_sink) << of_sink.text();
}

TEST_F(Conformance, ASourceThatGivesNothingIsFound) {
  FakeSource source{{small_config()}};
  EXPECT_TRUE(finds(check_source(source, {.allocator = &heap, .patience = std::chrono::milliseconds(20)}),
                    "gave 0 frames of 8"));
}

TEST_F(Conformance, ASourceWhoseSequenceFallsIsFound) {
  struct Backwards : FakeSource {
    using FakeSource::FakeSource;
    Result<Frame> take() override {
      auto frame = FakeSource::take();
      if (frame && *frame) must(frame->set_info({.sequence = next_--}));
      return frame;
    }
    std::uint64_t next_ = 1000;
  } source{{small_config()}};
  EXPECT_TRUE(finds(check(source), "sequence numbers fall"));
}

TEST_F(Conformance, ASourceThatWritesWhatIsHeldIsFound) {
  struct Careless : FakeSource {
    using FakeSource::FakeSource;
    Result<Frame> take() override {  // lends copies of the first buffer, each from its own HoldSet
      auto frame = FakeSource::take();
      if (!frame || !*frame) return frame;
      sets.push_back(must(HoldSet::create({holds()->buffers().front()})));
      return sets.back()->lend(0, frame->info());
    }
    std::vector<std::shared_ptr<HoldSet>> sets;
  } source{{small_config()}};
  EXPECT_TRUE(finds(check(source), "a buffer that is held was written again"));
}

TEST_F(Conformance, ASourceThatNeverRestsIsFound) {
  struct Restless : FakeSource {
    using FakeSource::FakeSource;
    [[nodiscard]] std::optional<Deadline> wake_by() const noexcept override { return Deadline::immediate(); }
  } source{{small_config()}};
  EXPECT_TRUE(finds(check(source), "by a wake_by() that stays in the past"));
}

TEST_F(Conformance, ASourceThatDeniesAFrameItHasIsFound) {
  struct Denies : FakeSource {
    using FakeSource::FakeSource;
    [[nodiscard]] bool may_have_frame() const noexcept override { return false; }
  } source{{small_config()}};
  EXPECT_TRUE(finds(check(source), "take() returns a frame after may_have_frame() returned false"));
}

TEST_F(Conformance, ADescriptorThatIsLeftOpenIsFound) {
  struct Leaky : FakeSource {
    using FakeSource::FakeSource;
    Result<void> stop() noexcept override {
      leaked.push_back(Fd::adopt(::dup(poll_fd())));
      return FakeSource::stop();
    }
    std::vector<Fd> leaked;
  } source{{small_config()}};
  EXPECT_TRUE(finds(check(source), "descriptors open"));
}

TEST_F(Conformance, ASinkThatKeepsMoreThanItSaysIsFound) {
  struct Hoarder : FakeSink {
    Result<Frame> accept(Frame frame) override {
      hoard.push_back(std::move(frame));
      return Frame();
    }
    std::vector<Frame> hoard;
  } sink;
  const auto findings = check(sink);
  EXPECT_TRUE(finds(findings, "holds 3 frames; max_held() says 2"));
  EXPECT_TRUE(finds(findings, "frames beyond stop()"));
}

TEST_F(Conformance, AFunctionSinkKeepsTheContract) {
  const auto sink = must(FunctionSink::create([](const Frame&) -> Result<void> { return {}; }));
  const auto findings = check(*sink);
  EXPECT_TRUE(findings) << findings.text();
}

TEST_F(Conformance, ASinkThatReportsAFrameTwiceIsFound) {
  struct Twice : FakeSink {
    std::size_t take_presented(std::span<Presentation> out) noexcept override {
      if (out.size() < 2) return 0;
      const auto count = FakeSink::take_presented(out.first(1));
      if (count == 1) out[1] = out[0];
      return 2 * count;
    }
  } sink;
  EXPECT_TRUE(finds(check(sink), "reports a frame twice"));
}

TEST_F(Conformance, ASinkThatHangsIsFound) {
  FakeSink sink;
  sink.hangs = true;
  const auto findings = check(sink);
  EXPECT_TRUE(finds(findings, "had no room again"));
  EXPECT_TRUE(finds(findings, "drain() fails"));
}

TEST_F(Conformance, ASinkThatRefusesIsFound) {
  FakeSink sink;
  sink.takes = {formats::nv12};
  EXPECT_TRUE(finds(check(sink), "check_input() fails"));
}

}  // namespace
