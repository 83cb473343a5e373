// A list of callbacks that may change while they are being called. An added one is called from the next time on. A
// removed one is not called again, and is destroyed only when no call is running any more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace dmaflow::connector {

template <typename Entry>
class Callbacks {
 public:
  void add(std::uint64_t key, Entry entry) {
    slots_.push_back(std::make_unique<Slot>(Slot{.key = key, .entry = std::move(entry)}));
  }

  void remove(std::uint64_t key) noexcept {
    for (const auto& slot : slots_) {
      if (slot->key == key) slot->is_alive = false;
    }
    clean();
  }

  [[nodiscard]] bool contains(std::uint64_t key) const noexcept {
    for (const auto& slot : slots_) {
      if (slot->key == key) return slot->is_alive;
    }
    return false;
  }

  /// Calls @p visit(key, entry) for each entry that is alive and existed when this began, until it returns true.
  template <typename Visit>
  bool visit(Visit visit) {
    ++depth_;
    bool is_done = false;
    const std::size_t count = slots_.size();
    // The vector may grow meanwhile; the slots do not move.
    for (std::size_t i = 0; i < count && !is_done; ++i) {
      Slot* slot = slots_[i].get();
      if (slot->is_alive) is_done = visit(slot->key, slot->entry);
    }
    --depth_;
    clean();
    return is_done;
  }

  [[nodiscard]] bool is_empty() const noexcept { return slots_.empty(); }

 private:
  struct Slot {
    std::uint64_t key = 0;
    Entry entry;
    bool is_alive = true;
  };

  /// Destroying a callback destroys what it holds, including tokens, whose destructors call into this list.
  void clean() noexcept {
    if (depth_ > 0) return;
    for (std::size_t i = 0; i < slots_.size();) {
      if (slots_[i]->is_alive) {
        ++i;
        continue;
      }
      const std::unique_ptr<Slot> dead = std::move(slots_[i]);
      slots_.erase(slots_.begin() + static_cast<std::ptrdiff_t>(i));
      ++depth_;
      dead->entry = Entry{};
      --depth_;
      i = 0;
    }
  }

  std::vector<std::unique_ptr<Slot>> slots_;
  int depth_ = 0;
};

/// One callback, which may be replaced while it is being called.
template <typename Function>
class Replaceable {
 public:
  void set(Function function) {
    function_ = std::move(function);
    is_replaced_ = true;
  }
  explicit operator bool() const noexcept { return static_cast<bool>(function_); }
  template <typename... Arguments>
  void operator()(Arguments&&... arguments) {
    Function running = std::exchange(function_, nullptr);
    is_replaced_ = false;
    running(std::forward<Arguments>(arguments)...);
    if (!is_replaced_) function_ = std::move(running);
  }

 private:
  Function function_;
  bool is_replaced_ = false;
};

}  // namespace dmaflow::connector
