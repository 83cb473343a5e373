// TaskQueue: what other threads want done in the loop's thread.
#pragma once

#include <dmaflow/device.hpp>
#include <dmaflow/function.hpp>

#include <memory>

namespace dmaflow {

/// Give it to Pipeline::watch(): functions that any thread posts are then called in the loop's thread, between two
/// turns, where they may change the pipeline: connect(), remove(), reconfigure(), stop(). Also for functions that the
/// loop calls itself, such as a sink's, which may not.
class TaskQueue final : public Pollable {
 public:
  /// Errors: EMFILE, ENFILE, ENOMEM (eventfd(2)).
  [[nodiscard]] static Result<std::unique_ptr<TaskQueue>> create();
  ~TaskQueue() override;

  /// Any thread, as long as the queue lives; also before the loop runs. In the order they came; one that is posted by a
  /// function of the queue is called in the next turn. The function's own data is destroyed in the loop's thread, or
  /// with the queue. Allocates. An empty function is ignored.
  void post(Function<void()> task);

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;

 private:
  struct Impl;
  explicit TaskQueue(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow
