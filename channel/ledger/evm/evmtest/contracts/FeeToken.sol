// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.28;

import {TestToken} from "./TestToken.sol";

/// A token that burns a hundredth of every transfer on the way.
contract FeeToken is TestToken {
    function _transfer(address from, address to, uint256 value) internal override {
        super._transfer(from, to, value);
        uint256 fee = value / 100;
        balanceOf[to] -= fee;
        totalSupply -= fee;
        emit Transfer(to, address(0), fee);
    }
}
