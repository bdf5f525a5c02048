// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.28;

interface ISettlement {
    function settle(address receiver, address token) external;
}

/// A collector that collects nothing, or, if it is given data, calls the
/// settlement contract back in the middle of the deposit.
contract Thief {
    function collect(address payer, address token, uint256, bytes32, bytes calldata data) external {
        if (data.length > 0) ISettlement(msg.sender).settle(payer, token);
    }
}
