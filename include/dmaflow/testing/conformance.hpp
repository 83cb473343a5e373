// Conformance: does a Source or a Sink keep the contract of device.hpp? For the tests of whoever writes one.
//
//     #include <dmaflow/testing/conformance.hpp>          // link dmaflow::testing
//
//     const auto findings = dmaflow::testing::check_sink(my_sink, {.config = stream, .allocator = &heap});
//     EXPECT_TRUE(findings) << findings.text();
//
// It needs no test framework. It runs the object as a pipeline would, and in ways in which a pipeline seldom does: all
// buffers held, a frame kept beyond stop(), started again. A check takes some seconds and ends with the object stopped.
#pragma once

#include <dmaflow/device.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dmaflow::testing {

/// What was found: a line for each promise that was broken.
struct Findings {
  std::vector<std::string> broken{};

  /// True where every promise was kept.
  explicit operator bool() const noexcept { return broken.empty(); }
  /// A line each.
  [[nodiscard]] std::string text() const;
};

/// How a source is to be checked.
struct SourceCheck {
  StreamRequest request{};                                      ///< which of its streams; the first one offered is used
  Allocator* allocator = nullptr;                               ///< who makes the buffers; nullptr: the source's own
  std::uint32_t frames = 8;                                     ///< how many to wait for in each part of the check
  std::chrono::nanoseconds patience = std::chrono::seconds(5);  ///< for each frame
  /// Called before each wait, in the same thread: makes a source that the test drives have its next frame.
  std::function<void()> provoke{};
};

/// How a sink is to be checked.
struct SinkCheck {
  StreamConfig config{};                                        ///< what it is configured for
  Allocator* allocator = nullptr;                               ///< who makes the buffers; nullptr: the sink's own
  std::uint32_t frames = 8;                                     ///< how many it is to take
  std::chrono::nanoseconds patience = std::chrono::seconds(5);  ///< for each frame
  /// Called before each wait, in the same thread: makes a sink that the test drives finish with a frame.
  std::function<void()> provoke{};
};

/// Runs @p source, which is stopped, through the contract of Producer, Pollable and Source. Descriptors of the process
/// are counted before and after, so no other thread may open or close any meanwhile.
[[nodiscard]] Findings check_source(Source& source, const SourceCheck& check = {});

/// Runs @p sink, which is stopped, through the contract of Consumer, Pollable and Sink. What the frames show is
/// whatever their memory holds. Descriptors are counted as by check_source().
[[nodiscard]] Findings check_sink(Sink& sink, const SinkCheck& check);

}  // namespace dmaflow::testing
