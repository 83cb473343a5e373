// Function: holds a callable object; it can be moved but not copied.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

namespace dmaflow {

template <typename Signature>
class Function;

namespace detail {
template <typename F>
inline constexpr bool can_be_null = std::is_pointer_v<F> || std::is_member_pointer_v<F>;
template <typename Signature>
inline constexpr bool can_be_null<std::function<Signature>> = true;
}  // namespace detail

/// A replacement for std::move_only_function, which Clang's standard library (libc++ 19) lacks: callbacks may own
/// objects that cannot be copied, such as a Frame or an Fd. Empty when default-constructed, made from nullptr or moved
/// from; calling an empty one is undefined. Making one allocates, moving and calling do not. Not synchronised.
template <typename R, typename... Arguments>
class Function<R(Arguments...)> {
 public:
  Function() = default;
  Function(std::nullptr_t) noexcept {}  // NOLINT(google-explicit-constructor): like std::function
  /// From anything that can be called with the arguments. A null function pointer or an empty std::function makes an
  /// empty Function.
  template <typename F>
    requires(!std::same_as<std::remove_cvref_t<F>, Function> &&
             std::is_invocable_r_v<R, std::decay_t<F>&, Arguments...>)
  Function(F&& callable) {  // NOLINT(google-explicit-constructor): like std::function
    // A function itself is never null, although it decays to a pointer.
    if constexpr (detail::can_be_null<std::decay_t<F>> && !std::is_function_v<std::remove_reference_t<F>>) {
      if (callable == nullptr) return;
    }
    held_ = std::make_unique<Held<std::decay_t<F>>>(std::forward<F>(callable));
  }

  explicit operator bool() const noexcept { return held_ != nullptr; }
  R operator()(Arguments... arguments) { return held_->call(std::forward<Arguments>(arguments)...); }

 private:
  struct Callable {
    Callable() = default;
    Callable(const Callable&) = delete;
    Callable& operator=(const Callable&) = delete;
    virtual ~Callable() = default;
    virtual R call(Arguments... arguments) = 0;
  };
  template <typename F>
  struct Held final : Callable {
    explicit Held(F from) : function(std::move(from)) {}
    R call(Arguments... arguments) override {
      return std::invoke_r<R>(function, std::forward<Arguments>(arguments)...);
    }
    F function;
  };
  std::unique_ptr<Callable> held_{};
};

}  // namespace dmaflow
